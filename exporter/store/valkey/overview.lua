-- ARGV[3...]: how many tasks at most, and the ranks of states in order. Answers the fleet's ledger, the size of each
-- state, the tasks as lines, and how many bodies are held.
local most, lines, sizes = tonumber(ARGV[3]), {}, {}
for index = 4, #ARGV do
  local state = key('state:' .. ARGV[index])
  sizes[index - 3] = redis.call('ZCARD', state)
  if #lines < most then
    fields(key('tasks'), redis.call('ZRANGE', state, 0, most - #lines - 1), lines)
  end
end
return answer('ok', ledger(0), sizes, table.concat(lines, '\n'), redis.call('HLEN', key('held')))
