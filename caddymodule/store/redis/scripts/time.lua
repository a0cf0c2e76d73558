-- Replies nonce and the server's time in milliseconds, as text. KEYS: any. ARGV: nonce.
local time = redis.call('TIME')
return {ARGV[1], string.format('%.0f', tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000))}
