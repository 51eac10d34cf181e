-- ARGV[3...]: a position, how many tasks at most, and ranks of states. Answers positions and records by turns.
local found = {}
for index = 5, #ARGV do
  local part = redis.call(
    'ZRANGEBYSCORE', key('state:' .. ARGV[index]), '(' .. ARGV[3], '+inf', 'WITHSCORES', 'LIMIT', 0, ARGV[4]
  )
  for each = 1, #part, 2 do
    found[#found + 1] = {part[each], part[each + 1]}
  end
end
table.sort(found, function(one, other) return tonumber(one[2]) < tonumber(other[2]) end)
local page = {}
for index = 1, math.min(#found, tonumber(ARGV[4])) do
  page[#page + 1] = found[index][2]
  page[#page + 1] = redis.call('HGET', key('tasks'), found[index][1])
end
return answer('ok', page)
