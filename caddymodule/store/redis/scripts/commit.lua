-- Has a large Apply be true that was laid aside, all of it at this moment; asked again with the
-- same number, it does no more. KEYS: the firm's index of endings. ARGV: nonce, number, of how
-- many ops, life of the claim, forever, and the buckets, with a NUL before, between and behind.
local nonce, number, count, forever = ARGV[1], ARGV[2], tonumber(ARGV[3]), ARGV[5]
local base = string.sub(KEYS[1], 1, -2)
local claim, hash = base .. 'n:' .. number, base .. 'p:' .. number
if redis.call('EXISTS', claim) == 1 then return {nonce, 'done'} end
-- Who has changed one of the records has dropped it; who was too slow has lost it.
if redis.call('GET', base .. 't') ~= 'S' .. number or redis.call('HLEN', hash) ~= count then
  return {nonce, 'conflict'}
end
redis.call('SET', claim, '1', 'PX', ARGV[4])
redis.call('PEXPIRE', hash, forever)
redis.call('SET', base .. 't', 'C' .. number .. ARGV[6], 'PX', forever)
return {nonce, 'done'}
