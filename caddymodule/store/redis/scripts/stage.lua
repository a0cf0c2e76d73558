-- Stages a piece of a large Apply. KEYS: the firm's expiry index. ARGV: nonce, now (the same for
-- all pieces), number, maximum time until the next piece, '1' for the first piece, firm; then the
-- ops. Replies 'busy' if another one is staged, 'true' if a committed one must be applied first.
local nonce, now, number, wait, first, firm = ARGV[1], tonumber(ARGV[2]), ARGV[3], tonumber(ARGV[4]), ARGV[5], ARGV[6]
local base = string.sub(KEYS[1], 1, -2)
local hash = base .. 'p:' .. number
local text, state = pending(base)
if text ~= 'S' .. number then
  if state == 'C' then return {nonce, 'true'} end
  if state == 'S' and first == '1' then return {nonce, 'busy'} end
  if first ~= '1' then return {nonce, 'conflict'} end
end
local verdict = judged(7, base, firm, now)
if verdict then
  dropped(base, hash)
  return {nonce, verdict}
end
redis.call('SET', base .. 't', 'S' .. number, 'PX', wait)
local args = {}
each(7, function(verb, bucket, id, raw)
  args[#args + 1] = bucket .. '\0' .. id
  if raw then
    args[#args + 1] = 'W' .. raw
  elseif verb == 'K' then
    args[#args + 1] = 'K'
  else
    args[#args + 1] = 'D'
  end
  if #args >= 400 then
    redis.call('HSET', hash, unpack(args))
    args = {}
  end
end)
if #args > 0 then redis.call('HSET', hash, unpack(args)) end
redis.call('PEXPIRE', hash, 10 * wait) -- outlives 't'
return {nonce, 'done'}
