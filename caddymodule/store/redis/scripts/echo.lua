-- Replies with the nonce. KEYS: none. ARGV: nonce.
return {ARGV[1]}
