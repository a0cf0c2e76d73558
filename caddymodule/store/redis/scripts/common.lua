-- Functions shared by the scripts; prepended to each script that needs them.
--
-- A large Apply is first staged, in pieces, in a hash with the key 'p:' and its number: by name of
-- the record 'W' and the raw value, 'D' (delete) or 'K' (check). The key 't' names it: 'S' and the
-- number while it is staged; 'C', the number, and between NULs the buckets, once it is committed.
-- From then on the hash has the current values rather than the records, until all of it has been
-- applied.

-- pending returns the value of 't' (none: nil), its first letter, and the hash.
local function pending(base)
  local text = redis.call('GET', base .. 't')
  if not text then return end
  local cut = string.find(text, '\0', 1, true) or 0
  return text, string.sub(text, 1, 1), base .. 'p:' .. string.sub(text, 2, cut - 1)
end

-- dropped ends a large Apply that isn't committed yet.
local function dropped(base, hash)
  redis.call('DEL', base .. 't')
  redis.call('UNLINK', hash)
end

-- each calls visit(verb, bucket, id, raw, was) for the ops in ARGV, starting at index i, until it
-- returns something. For each bucket, ARGV has its name, the number of ops, and the ops: verb, id,
-- the new raw value (P put, C create, R replace), the old value (R replace, M remove, K check; D
-- is delete).
local writes = {P = true, C = true, R = true}
local compares = {R = true, M = true, K = true}
local function each(i, visit)
  while i <= #ARGV do
    local bucket, count = ARGV[i], tonumber(ARGV[i + 1])
    i = i + 2
    for _ = 1, count do
      local verb, id, raw, was = ARGV[i], ARGV[i + 1], nil, nil
      i = i + 2
      if writes[verb] then raw, i = ARGV[i], i + 1 end
      if compares[verb] then was, i = ARGV[i], i + 1 end
      local verdict = visit(verb, bucket, id, raw, was)
      if verdict then return verdict end
    end
  end
end

-- judged returns why a condition of the ops fails: 'conflict', or 'newer' or 'mixed' if the record
-- can't be read.
local function judged(i, base, firm, now)
  return each(i, function(verb, bucket, id, _, was)
    if verb == 'P' or verb == 'D' then return end
    local key = base .. 'r:' .. bucket .. '\0' .. id
    local raw
    if verb == 'C' then raw = redis.call('GETRANGE', key, 0, 16) else raw = redis.call('GET', key) end
    if not raw or raw == '' then
      if verb == 'C' then return end
      return 'conflict'
    end
    if string.byte(raw) ~= 1 then return 'newer' end
    local ends = tonumber(string.sub(raw, 2, 17))
    local alive = ends == 0 or now < ends
    if verb == 'C' then
      if alive then return 'conflict' end
      return
    end
    local name = firm .. '\0' .. bucket .. '\0' .. id
    if string.sub(raw, 20, 19 + #name) ~= name then return 'mixed' end
    if not alive or string.sub(raw, 20 + #name) ~= was then return 'conflict' end
  end)
end

-- writer has write(bucket, id, raw), which deletes if raw is missing, and finish().
local function writer(base, now, slack, forever)
  -- Changes of an index are collected and made by the hundred: a call from Lua costs more than
  -- the change.
  local waiting, order = {}, {}
  local function flush(list)
    if #list.args > 0 then redis.call(list.verb, list.key, unpack(list.args)) end
    list.args = {}
  end
  local function later(verb, key, a, b)
    local list = waiting[verb .. key]
    if not list then
      list = {verb = verb, key = key, args = {}}
      waiting[verb .. key] = list
      order[#order + 1] = list
    end
    list.args[#list.args + 1] = a
    if b then list.args[#list.args + 1] = b end
    if #list.args >= 400 then flush(list) end
  end

  local longest = {}
  local function lives(key, life)
    if life > (longest[key] or 0) then longest[key] = life end
  end

  local function write(bucket, id, raw)
    local member = bucket .. '\0' .. id
    local key, index = base .. 'r:' .. member, base .. 'i:' .. bucket
    local ends = raw and tonumber(string.sub(raw, 2, 17))
    if not raw or (ends ~= 0 and now >= ends) then
      if redis.call('DEL', key) == 1 then
        later('ZREM', index, id)
        later('ZREM', base .. 'x', member)
        later('ZREM', base .. 's', member)
      end
      return
    end
    local life = forever
    if ends ~= 0 then life = ends - now + slack end
    redis.call('SET', key, raw, 'PX', life)
    later('ZADD', index, 0, id)
    lives(index, life)
    if ends ~= 0 then
      later('ZADD', base .. 'x', ends, member)
      later('ZREM', base .. 's', member)
      lives(base .. 'x', life)
    else
      later('ZADD', base .. 's', now + forever, member)
      later('ZREM', base .. 'x', member)
      lives(base .. 's', life)
    end
  end

  local function finish()
    for _, list in ipairs(order) do flush(list) end
    for key, life in pairs(longest) do
      if redis.call('PTTL', key) < life then redis.call('PEXPIRE', key, life) end
    end
  end
  return write, finish
end

-- carry applies the staged change of a record.
local function carry(hash, member, aside, write)
  local cut = string.find(member, '\0', 1, true)
  local verb = string.sub(aside, 1, 1)
  if verb == 'W' then
    write(string.sub(member, 1, cut - 1), string.sub(member, cut + 1), string.sub(aside, 2))
  elseif verb == 'D' then
    write(string.sub(member, 1, cut - 1), string.sub(member, cut + 1))
  end
  redis.call('HDEL', hash, member)
end

