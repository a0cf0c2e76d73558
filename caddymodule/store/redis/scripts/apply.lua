-- Makes all changes or none; repeated with the same nonce, it changes nothing more.
-- KEYS: the firm's expiry index. ARGV: nonce, now, TTL of the reply, slack, forever, firm;
-- then the ops.
local nonce, now, slack, forever, firm = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[4]), tonumber(ARGV[5]), ARGV[6]
local base = string.sub(KEYS[1], 1, -2)
local claim = base .. 'n:' .. nonce
if redis.call('EXISTS', claim) == 1 then return {nonce, 'done'} end

local text, state, hash = pending(base)
if state == 'C' then
  local write, finish = writer(base, now, slack, forever)
  each(7, function(_, bucket, id)
    local member = bucket .. '\0' .. id
    local aside = redis.call('HGET', hash, member)
    if aside then carry(hash, member, aside, write) end
  end)
  finish()
end

local verdict = judged(7, base, firm, now)
if verdict then return {nonce, verdict} end

local changed = false
local write, finish = writer(base, now, slack, forever)
each(7, function(verb, bucket, id, raw)
  if verb == 'K' then return end
  if not changed then
    changed = true
    redis.call('SET', claim, '1', 'PX', ARGV[3])
  end
  if state == 'S' and redis.call('HEXISTS', hash, bucket .. '\0' .. id) == 1 then
    dropped(base, hash) -- its conditions were checked before
    state = nil
  end
  write(bucket, id, raw)
end)
finish()
return {nonce, 'done'}
