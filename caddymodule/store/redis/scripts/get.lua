-- Reads one record. KEYS: the record. ARGV: nonce.
return {ARGV[1], redis.call('GET', KEYS[1])}
