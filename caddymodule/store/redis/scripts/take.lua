-- Reads one record and deletes it; asked again with the same nonce, it gives the same answer.
-- KEYS: the firm's index of endings. ARGV: nonce, now, life of the claim, bucket, id, name.
local base = string.sub(KEYS[1], 1, -2)
local claim = base .. 'n:' .. ARGV[1]
local said = redis.call('GET', claim)
if said then return {ARGV[1], said} end

local member = ARGV[4] .. '\0' .. ARGV[5]
local raw = redis.call('GET', base .. 'r:' .. member)
local _, state, hash = pending(base)
local aside = state and redis.call('HGET', hash, member)
if aside and state == 'C' then
  local verb = string.sub(aside, 1, 1)
  if verb == 'W' then raw = string.sub(aside, 2) end
  if verb == 'D' then raw = false end
end
if not raw then return {ARGV[1], false} end
-- What isn't to be read here is left for the caller to complain about.
if string.byte(raw) ~= 1 or string.sub(raw, 20, 19 + #ARGV[6]) ~= ARGV[6] then return {ARGV[1], raw} end
local ends = tonumber(string.sub(raw, 2, 17))
if ends ~= 0 and tonumber(ARGV[2]) >= ends then return {ARGV[1], false} end

redis.call('SET', claim, raw, 'PX', ARGV[3])
if aside and state == 'S' then dropped(base, hash) end -- its conditions were judged before
if aside and state == 'C' then redis.call('HDEL', hash, member) end
redis.call('DEL', base .. 'r:' .. member)
redis.call('ZREM', base .. 'i:' .. ARGV[4], ARGV[5])
redis.call('ZREM', base .. 'x', member)
redis.call('ZREM', base .. 's', member)
return {ARGV[1], raw}
