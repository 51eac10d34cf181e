-- ARGV[3]: a digest of sources. Answers keys, records and versions of the tasks that pull from them.
local names = siblings(ARGV[3])
local found, places = records(names)
return answer('ok', names, lines(found), table.concat(versions(places), ' '))
