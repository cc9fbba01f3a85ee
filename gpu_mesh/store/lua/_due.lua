-- A periodic entry that is due is sent once: by the beat that leads, and for each time once.
--
--   gpumesh:beat       string  the beat that leads; expires
--   gpumesh:beat:runs  hash    entry → when it was last due, s

-- Whether it is to be sent now; it then counts as sent.
local function is_to_be_sent(beat, entry, due)
  if redis.call('GET', 'gpumesh:beat') ~= beat then return false end
  local last = redis.call('HGET', 'gpumesh:beat:runs', entry)
  if last and tonumber(last) >= tonumber(due) then return false end
  redis.call('HSET', 'gpumesh:beat:runs', entry, due)
  return true
end
