-- ARGV[3...]: keys of tasks. Answers their records, their versions, and 1 for each that has a state; each of
-- these in one text, since the client reads many short answers slowly.
local names, shown = {}, {}
for index = 3, #ARGV do
  names[index - 2] = ARGV[index]
end
local found, places = records(names)
for index, known in ipairs(places) do
  shown[index] = known and known.rank < 4 and 1 or 0
end
return answer('ok', lines(found), table.concat(versions(places), ' '), table.concat(shown, ' '))
