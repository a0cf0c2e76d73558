-- Deletes expired records, and renews the TTL of others. KEYS: the firm's expiry index. ARGV:
-- nonce, until, forever, maximum number, and '1' if until must not exceed the server's own clock.
-- Replies nonce, the number deleted, whether there is more, and whether a large Apply must be
-- applied.
local ends, forever, most = tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local base = string.sub(KEYS[1], 1, -2)
local now = ends
if ARGV[5] == '1' then
  local time = redis.call('TIME')
  ends = math.min(ends, tonumber(time[1]) * 1000 + 60000)
end

local members = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', ends, 'LIMIT', 0, most)
local deleted = 0
for _, member in ipairs(members) do
  local cut = string.find(member, '\0', 1, true)
  local head = redis.call('GETRANGE', base .. 'r:' .. member, 0, 16)
  local real = head ~= '' and string.byte(head) == 1 and tonumber(string.sub(head, 2, 17))
  if head ~= '' and not real then
    redis.call('ZADD', KEYS[1], ends + 3600000, member) -- written by a newer Doorpost, which handles it
  elseif real == 0 then
    redis.call('ZREM', KEYS[1], member)
  elseif real and real > ends then
    redis.call('ZADD', KEYS[1], real, member)
  else
    redis.call('DEL', base .. 'r:' .. member)
    redis.call('ZREM', base .. 'i:' .. string.sub(member, 1, cut - 1), string.sub(member, cut + 1))
    redis.call('ZREM', KEYS[1], member)
    deleted = deleted + 1
  end
end

local staying = redis.call('ZRANGEBYSCORE', base .. 's', '-inf', now + forever * 0.9, 'LIMIT', 0, most)
local renewed = {}
for _, member in ipairs(staying) do
  local cut = string.find(member, '\0', 1, true)
  local index = base .. 'i:' .. string.sub(member, 1, cut - 1)
  if redis.call('PEXPIRE', base .. 'r:' .. member, forever) == 1 then
    redis.call('ZADD', base .. 's', now + forever, member)
    renewed[index] = true
  else
    redis.call('ZREM', base .. 's', member)
    redis.call('ZREM', index, string.sub(member, cut + 1))
  end
end
if #staying > 0 then
  redis.call('PEXPIRE', base .. 's', forever)
  for index in pairs(renewed) do redis.call('PEXPIRE', index, forever) end
end
local more = 0
if #members == most or #staying == most then more = 1 end
local aside = 0
local _, state = pending(base)
if state == 'C' then aside = 1 end
return {ARGV[1], deleted, more, aside}
