-- Applies a piece of a committed large Apply. KEYS: the firm's expiry index. ARGV: nonce, now,
-- slack, forever, cursor, number of records. Replies nonce, the next cursor, and whether there is
-- more.
local nonce, now, slack, forever = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local base = string.sub(KEYS[1], 1, -2)
local _, state, hash = pending(base)
if state ~= 'C' then return {nonce, '0', 0} end
local page = redis.call('HSCAN', hash, ARGV[5], 'COUNT', ARGV[6])
local write, finish = writer(base, now, slack, forever)
local seen = {} -- a scan may return a record twice
for i = 1, #page[2], 2 do
  local member = page[2][i]
  if not seen[member] then
    seen[member] = true
    carry(hash, member, page[2][i + 1], write)
  end
end
finish()
if redis.call('EXISTS', hash) == 0 then
  redis.call('DEL', base .. 't')
  return {nonce, '0', 0}
end
return {nonce, page[1], 1}
