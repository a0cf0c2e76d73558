-- Reads a page of a bucket. KEYS: the bucket's index. ARGV: nonce, the prefix of its records'
-- keys, least id, greatest id (as for ZRANGEBYLEX), limit, now, bytes, the prefix of the firm's
-- keys, the bucket. Replies nonce, the id to continue after ('' if there are no more), and the raw
-- values; or nonce and 1 if a large Apply of this bucket must be applied first.
local text, state = pending(ARGV[8])
if state == 'C' and string.find(text, '\0' .. ARGV[9] .. '\0', 1, true) then return {ARGV[1], 1} end
local least, limit, now, room = ARGV[3], tonumber(ARGV[5]), tonumber(ARGV[6]), tonumber(ARGV[7])
local out, seen = {ARGV[1], ''}, 0
while true do
  local ids = redis.call('ZRANGEBYLEX', KEYS[1], least, ARGV[4], 'LIMIT', 0, 200)
  for _, id in ipairs(ids) do
    local raw = redis.call('GET', ARGV[2] .. id)
    seen = seen + 1
    if raw then
      local ends = string.byte(raw) == 1 and tonumber(string.sub(raw, 2, 17)) or 0
      if ends == 0 or now < ends then
        out[#out + 1] = raw
        room = room - #raw
      end
    end
    -- One long page, or many expired records in a row, would block everybody.
    if #out - 2 >= limit or room <= 0 or seen >= 2000 then
      out[2] = id
      return out
    end
    least = '(' .. id
  end
  if #ids < 200 then return out end
end
