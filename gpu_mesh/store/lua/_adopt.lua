-- What strangers do to the lists: included by claim.lua, after _index.

-- Make nothing of what is known of a list; the next look indexes it anew.
local function forget(list)
  local queue, prefix = queue_of(list), list .. '|'
  call('UNLINK', P .. 'list:' .. list)
  for _, band in ipairs({'critical', 'high', 'normal', 'low'}) do
    local class = queue .. '|' .. band
    for _, group in ipairs(call('ZRANGE', P .. 'class:' .. class, 0, -1)) do
      if string.sub(group, 1, #prefix) == prefix then
        call('UNLINK', P .. 'group:' .. group)
        call('ZREM', P .. 'class:' .. class, group)
      end
    end
    local first = call('ZRANGE', P .. 'class:' .. class, 0, 0, 'WITHSCORES')
    if first[1] then call('ZADD', CLASSES, first[2], class) else call('ZREM', CLASSES, class) end
  end
  call('DEL', P .. 'looked')
end

-- Makes `adopt`. Built by who needs it: a closure costs 0.4 µs, and most claims adopt nothing.
local function adopter()
  local BANDS = {['0'] = 'critical', ['3'] = 'high', ['6'] = 'normal', ['9'] = 'low'}
  -- Longest envelope that is decoded whole to find its headers; in a longer one they are looked for.
  local DECODED = 16384
  -- Longest delivery tag and task id that are kept.
  local TAG_LENGTH = 200

  -- The envelope, or of a long one what follows its body: a body in base64 or JSON cannot hold that text unescaped.
  local function decode(raw)
    if #raw > DECODED then
      local from = find(raw, '"headers": {', 1, true)
      local ok, envelope = pcall(cjson.decode, from and '{' .. string.sub(raw, from) or '')
      if ok then return envelope end
    end
    local ok, envelope = pcall(cjson.decode, raw)
    if ok then return envelope end
  end

  local function same(a, b)
    if type(a) ~= 'table' or type(b) ~= 'table' then return a == b end
    for key, value in pairs(a) do
      if not same(value, b[key]) then return false end
    end
    for key in pairs(b) do
      if a[key] == nil then return false end
    end
    return true
  end

  -- The JSON object that begins at `from`; braces in its strings are no braces.
  local function object_at(raw, from)
    local depth, i = 0, from
    while true do
      i = find(raw, '["{}]', i)
      if not i then return nil end
      local c = string.byte(raw, i)
      if c == 34 then
        i = i + 1
        while true do
          i = find(raw, '["\\]', i)
          if not i then return nil end
          if string.byte(raw, i) == 34 then break end
          i = i + 2
        end
      else
        depth = depth + (c == 123 and 1 or -1)
        if depth == 0 then return string.sub(raw, from, i) end
      end
      i = i + 1
    end
  end

  -- Needs as their sender wrote them: encoding rounds numbers. Nothing for what is no object.
  local function needs_text(raw, needs)
    local mesh = find(raw, '"mesh": {', 1, true)
    local _, from = find(raw, '"needs": {', mesh or 1, true)
    local text = from and object_at(raw, from)
    if text then
      local ok, read = pcall(cjson.decode, text)
      if ok and same(read, needs) then return text end
    end
    local ok, encoded = pcall(cjson.encode, needs)
    return ok and string.sub(encoded, 1, 1) == '{' and encoded
  end

  -- What a stranger's envelope says of itself; needs number "bad" when it is no message.
  local function describe(list, raw)
    local e = decode(raw)
    local h, p = type(e) == 'table' and e.headers, type(e) == 'table' and e.properties
    local tag = type(p) == 'table' and p.delivery_tag
    if type(h) ~= 'table' or type(tag) ~= 'string' or #tag > TAG_LENGTH or not find(tag, '^[!-~]+$')
      or not find(raw, tag, 1, true) then
      return {needs = 'bad', tag = '-', id = '', band = 'normal'}
    end
    local mesh, id = h.mesh, type(h.id) == 'string' and string.sub(string.gsub(h.id, '[^ -~]', '?'), 1, TAG_LENGTH) or ''
    local band, needs = 'normal', '{}'
    if type(mesh) == 'table' and type(mesh.needs) == 'table' then
      band = BANDS[match(list, ':([369])$') or '0']
      if next(mesh.needs) ~= nil then needs = needs_text(raw, mesh.needs) or '{}' end
    end
    return {needs = needs_number(needs), tag = tag, id = id, band = band}
  end

  -- Index what strangers pushed, at most `limit` messages. Returns how many, and how many are left.
  local function adopt(list, now, gated, limit)
    local len = redis.pcall('LLEN', list)
    -- No list: a stranger's key of the same name.
    if type(len) ~= 'number' then return 0, 0 end
    local got = call('HMGET', P .. 'list:' .. list, 'base', 'n')
    local base, n = tonumber(got[1] or 0), tonumber(got[2] or 0)
    if len == n then return 0, 0 end
    if len < n then
      forget(list)
      base, n = 0, 0
    end
    local upto = math.min(len, n + limit)
    for p = n, upto - 1 do
      -- From whichever end is nearer.
      local m = describe(list, call('LINDEX', list, p * 2 < len and -1 - p or len - 1 - p))
      local again = call('HGET', AGAIN, m.tag)
      local f = again and split(again) or {now, gated, 0}
      m.list, m.q, m.at, m.gated, m.deliveries = list, base + p, f[1], f[2], f[3]
      enter(m, base, p + 1)
    end
    return upto - n, len - upto
  end

  return adopt
end

-- Whether an envelope bears the tag; stock clients write it at the end.
local function bears(raw, tag)
  return tag == '-' or find(raw, tag, -1024, true) or find(raw, tag, 1, true)
end

-- Take message m (as claim.lua's `head` read it) out of its list. Its place is filled with the list's last element, so
-- that this costs the same at any depth; the order of work is the index's, not the list's. Returns the envelope; nil
-- when it is not where it should be.
local function take(m)
  local list, base, n, uid = m.list, m.base, m.n, m.uid
  local hash, p, raw = P .. 'list:' .. list, m.q - base, nil
  if p == 0 then
    raw = call('RPOP', list)
    if raw and not bears(raw, m.tag) then
      call('RPUSH', list, raw)
      return nil
    end
    if not raw then return nil end
    call('HSET', hash, 'base', base + 1, 'n', n - 1)
  else
    raw = p > 0 and call('LINDEX', list, -1 - p)
    local moved = call('HGET', hash, 'q' .. base)
    if not raw or not moved or not bears(raw, m.tag) then return nil end
    call('LSET', list, -p, call('RPOP', list))
    call('HSET', hash, 'base', base + 1, 'n', n - 1, 'q' .. m.q, moved, 'p' .. moved, m.q)
  end
  call('HDEL', hash, 'q' .. base, uid, 'p' .. uid)
  local group, class = m.group, m.class
  call('ZREM', P .. 'group:' .. group, uid)
  local next_at, other_at = m.next_at, m.class_next_at
  if next_at then
    call('ZADD', P .. 'class:' .. class, next_at, group)
  else
    call('ZREM', P .. 'class:' .. class, group)
  end
  if m.class_first then
    if next_at and (not other_at or tonumber(next_at) < tonumber(other_at)) then other_at = next_at end
    if other_at then call('ZADD', CLASSES, other_at, class) else call('ZREM', CLASSES, class) end
  end
  return raw
end
