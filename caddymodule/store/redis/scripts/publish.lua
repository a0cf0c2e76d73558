-- Publishes to a firm's subscribers. KEYS: any of the firm's. ARGV: nonce, channel, message.
redis.call('PUBLISH', ARGV[2], ARGV[3])
return {ARGV[1]}
