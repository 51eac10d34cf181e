-- ARGV[3...]: how many tasks at most, and the ranks of states in order. Answers the fleet's ledger; of each other label
-- set its labels, its ledger, and how many tasks it has in each of these states; the tasks as lines; and how many
-- tasks and bodies there are.
local most, sizes, total, tasks, sets = tonumber(ARGV[3]), {}, 0, {}, {}
for index = 4, #ARGV do
  local state = key('state:' .. ARGV[index])
  sizes[index] = redis.call('ZCARD', state)
  total = total + sizes[index]
  if #tasks < most then
    fields(key('tasks'), redis.call('ZRANGE', state, 0, most - #tasks - 1), tasks)
  end
end
local ledgers = redis.call('HGETALL', key('ledgers'))
for at = 1, #ledgers, 2 do
  local labels, number = ledgers[at], ledgers[at + 1]
  if number ~= '0' then
    local counts = {}
    -- The tasks of a ledger stand together, as `enter` orders them.
    local low, high = string.format('%.0f', number * 4294967296), string.format('(%.0f', (number + 1) * 4294967296)
    for index = 4, #ARGV do
      counts[index - 3] = sizes[index] > 0 and redis.call('ZCOUNT', key('state:' .. ARGV[index]), low, high) or 0
    end
    sets[#sets + 1] = {labels, ledger(number), counts}
  end
end
return answer('ok', ledger(0), sets, table.concat(tasks, '\n'), total, redis.call('HLEN', key('held')))
