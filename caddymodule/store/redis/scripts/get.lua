-- Reads one record. KEYS: the record. ARGV: nonce, the prefix of the firm's keys, the record's
-- name.
local text, state, hash = pending(ARGV[2])
if state == 'C' then
  local aside = redis.call('HGET', hash, ARGV[3])
  local verb = aside and string.sub(aside, 1, 1)
  if verb == 'W' then return {ARGV[1], string.sub(aside, 2)} end
  if verb == 'D' then return {ARGV[1], false} end
end
return {ARGV[1], redis.call('GET', KEYS[1])}
