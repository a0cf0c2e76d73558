-- Commits a staged large Apply as a whole; repeated with the same number, it does nothing more.
-- KEYS: the firm's expiry index. ARGV: nonce, number, number of ops, TTL of the reply, forever, and
-- the buckets, with a NUL before, between and after them.
local nonce, number, count, forever = ARGV[1], ARGV[2], tonumber(ARGV[3]), ARGV[5]
local base = string.sub(KEYS[1], 1, -2)
local claim, hash = base .. 'n:' .. number, base .. 'p:' .. number
if redis.call('EXISTS', claim) == 1 then return {nonce, 'done'} end
-- A change of one of the records has dropped it; after a long pause it has expired.
if redis.call('GET', base .. 't') ~= 'S' .. number or redis.call('HLEN', hash) ~= count then
  return {nonce, 'conflict'}
end
redis.call('SET', claim, '1', 'PX', ARGV[4])
redis.call('PEXPIRE', hash, forever)
redis.call('SET', base .. 't', 'C' .. number .. ARGV[6], 'PX', forever)
return {nonce, 'done'}
