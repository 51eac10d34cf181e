-- ARGV: first and last position among the tasks as they are due. Answers how many there are, and of each: record,
-- place, and when it is due; packed, since the client reads many short answers slowly.
local found = redis.call('ZRANGE', key('due'), ARGV[1], ARGV[2], 'WITHSCORES')
local named, rows = {}, {}
for index = 1, #found, 2 do
  named[#named + 1] = found[index]
end
local places, tasks = fields(key('places'), named, {}), fields(key('tasks'), named, {})
for index = 1, #named do
  if tasks[index] and places[index] then
    rows[#rows + 1] = {tasks[index], places[index], found[2 * index]}
  end
end
return answer('ok', #named, cmsgpack.pack(rows))
