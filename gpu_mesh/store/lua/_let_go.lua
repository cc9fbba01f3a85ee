-- Letting a claim go: included by the scripts that end one, after _idle and the line for REALTIME.
--
--   gpumesh:claims:<worker>  hash  <delivery tag> → list, at, gated, deliveries, needs, band, claimed at, standby,
--                                  task id; tab-separated
--                                  =<delivery tag> → its envelope     +<delivery tag> → its siblings, with commas

-- The claim as a table, and its envelope; nothing when it is not the worker's.
local function read_claim(worker, tag)
  local got = call('HMGET', P .. 'claims:' .. worker, tag, '=' .. tag, '+' .. tag)
  if not got[1] then return end
  local f = {}
  for part in string.gmatch(got[1] .. '\t', '([^\t]*)\t') do f[#f + 1] = part end
  return {list = f[1], at = tonumber(f[2]), gated = tonumber(f[3]), deliveries = tonumber(f[4]), needs = f[5],
    band = f[6], standby = f[8], task = f[9], tag = tag, record = got[1], siblings = got[3]}, got[2]
end

-- The sibling devices of a job that is over may claim again.
local function free(siblings)
  for sibling in string.gmatch(siblings, '[^,]+') do
    call('HDEL', P .. 'state', '+' .. sibling)
    wake(sibling)
  end
end

-- The worker holds it no more, its sibling devices are free, it holds nothing back and is asked for nothing. Returns 1,
-- or 0 when it was not the worker's.
local function let_go(worker, tag)
  local claims = P .. 'claims:' .. worker
  local got = call('HMGET', claims, tag, '+' .. tag)
  local was = call('HDEL', claims, tag, '=' .. tag, '+' .. tag)
  if got[2] then free(got[2]) end
  local queue = got[1] and string.match(got[1], '^([^:\t]*)')
  if queue and string.find(YIELDING, ',' .. queue .. ',', 1, true) then
--@include _unlist
  elseif queue and string.find(REALTIME, ',' .. queue .. ',', 1, true) then
    local siblings = got[2]
--@include _resume
  end
  return was > 0 and 1 or 0
end
