-- Taking one message out of its list: included after _index, _describe and _mend.

-- Messages of a group read in one go.
local GROUP_PAGE = 1000

-- Take out of a list the envelope `raw`, whatever lies before it; the others keep their ages. Returns 1, or 0 when it is
-- not there.
local function remove(list, raw)
  local index = call('LPOS', list, raw, 'RANK', -1)
  if not index then return 0 end
  local hash = P .. 'list:' .. list
  local got = call('HMGET', hash, 'base', 'top')
  local base, top = tonumber(got[1] or 0), tonumber(got[2] or 0)
  local len = call('LLEN', list)
  local place = base + len - 1 - index
  if place >= top or len < top - base then
    -- Not indexed, or the index is wrong and will be mended.
    return call('LREM', list, -1, raw)
  end
  local id = call('HGET', hash, 'o' .. place) or text(place)
  cut(list, place)
  call('HDEL', AGAIN, describe(list, raw).tag)
  for _, g in ipairs(groups_of(list)) do
    local from = 0
    while true do
      local page = call('ZRANGE', P .. 'group:' .. g.group, from, from + GROUP_PAGE - 1)
      for i = 1, #page do
        if find(page[i], id .. ' ', 1, true) == 1 then
          call('ZREM', P .. 'group:' .. g.group, page[i])
          settle(g.group, g.class)
          return 1
        end
      end
      if #page < GROUP_PAGE then break end
      from = from + GROUP_PAGE
    end
  end
  forget(list)
  return 1
end
