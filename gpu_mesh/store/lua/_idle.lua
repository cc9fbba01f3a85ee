-- Idle workers: included by scripts that wake them, after the names `call` and `P` are set.
--
--   gpumesh:idle:<queue>   zset    worker that waits for work of the queue → since when
--   gpumesh:idling         hash    worker → its queues, with commas
--   gpumesh:wake:<worker>  list    what an idle worker waits on

-- It waits no more.
local function stir(worker)
  local queues = call('HGET', P .. 'idling', worker)
  if not queues then return end
  call('HDEL', P .. 'idling', worker)
  for queue in string.gmatch(queues, '[^,]+') do call('ZREM', P .. 'idle:' .. queue, worker) end
end

local function wake(worker)
  stir(worker)
  call('LPUSH', P .. 'wake:' .. worker, 1)
  call('EXPIRE', P .. 'wake:' .. worker, 60)
  return worker
end
