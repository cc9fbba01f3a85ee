-- What an envelope says of itself: included by scripts that read envelopes, after _index.

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
    if ok and envelope.properties then return envelope end
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

-- Whether a decoded value is an object, or nothing as one: none, null, or an empty list, which decodes to the same.
local function is_object(value)
  return value == nil or value == cjson.null or type(value) == 'table' and type(next(value)) ~= 'number'
end

-- Why the header `mesh` can say nothing (domain/header.py); nil when it can, and when a stock producer wrote none.
local function wrong_header(mesh)
  if not is_object(mesh) then return 'its mesh header is no object' end
  if type(mesh) == 'table' and not is_object(mesh.needs) then return 'the needs of its mesh header are no object' end
end

-- What an envelope says of itself; needs number 0 when it is no message, with the reason.
local function describe(list, raw)
  local e = decode(raw)
  local h, p = type(e) == 'table' and e.headers, type(e) == 'table' and e.properties
  local tag = type(p) == 'table' and p.delivery_tag
  if type(h) ~= 'table' or type(tag) ~= 'string' or #tag > TAG_LENGTH or not find(tag, '^[!-*,-<>-~][!-~]*$')
    or not find(raw, tag, 1, true) then
    return {needs = '0', tag = '-', task = '', band = 'normal', why = 'malformed'}
  end
  local mesh, task = h.mesh, type(h.id) == 'string' and string.sub(string.gsub(h.id, '[^ -~]', '?'), 1, TAG_LENGTH) or ''
  local why = wrong_header(mesh)
  if why then return {needs = '0', tag = tag, task = task, band = 'normal', why = why} end
  local band, needs = 'normal', '{}'
  if type(mesh) == 'table' and type(mesh.needs) == 'table' then
    band = BANDS[match(list, ':([369])$') or '0']
    if next(mesh.needs) ~= nil then needs = needs_text(raw, mesh.needs) or '{}' end
  end
  return {needs = needs_number(needs), tag = tag, task = task, band = band}
end
