-- ARGV: numbers of ledgers. Answers each of them, names and values by turns.
local found = {}
for index, number in ipairs(ARGV) do
  found[index] = redis.call('HGETALL', key('ledger:' .. number))
end
return answer('ok', found)
