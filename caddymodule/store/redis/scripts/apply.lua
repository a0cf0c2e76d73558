-- Makes all changes or none; asked again with the same nonce, it changes nothing more.
-- KEYS: the firm's index of endings. ARGV: nonce, now, life of the claim, slack, forever, firm;
-- then for each bucket its name, the number of ops, and the ops: verb, id, the new raw value
-- (P put, C create, R replace), the old value (R replace, M remove, K check; D is delete).
local nonce, now, slack, forever, firm = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[4]), tonumber(ARGV[5]), ARGV[6]
local base = string.sub(KEYS[1], 1, -2)
local claim = base .. 'n:' .. nonce
if redis.call('EXISTS', claim) == 1 then return {nonce, 'done'} end

local writes = {P = true, C = true, R = true}
local compares = {R = true, M = true, K = true}

-- each calls visit(verb, bucket, id, raw, was) op by op until it returns something.
local function each(visit)
  local i = 7
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

-- What is wrong with a condition: 'conflict', or 'newer' or 'mixed' where the record can't be judged.
local verdict = each(function(verb, bucket, id, _, was)
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
if verdict then return {nonce, verdict} end

-- Changes of an index are gathered and made by the hundred: one call of Lua costs more than
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

local longest, changed = {}, false
local function lives(key, life)
  if life > (longest[key] or 0) then longest[key] = life end
end

each(function(verb, bucket, id, raw)
  if verb == 'K' then return end
  if not changed then
    changed = true
    redis.call('SET', claim, '1', 'PX', ARGV[3])
  end
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
end)
for _, list in ipairs(order) do flush(list) end
for key, life in pairs(longest) do
  if redis.call('PTTL', key) < life then redis.call('PEXPIRE', key, life) end
end
return {nonce, 'done'}
