-- Runs some commands of a load, as long as no other load has replaced it.
-- ARGV: the id of the load; then the commands: for each the number of its words, and the words.
-- The last command of a load deletes `loading`. If the answer to it was lost and this script runs again, the store has
-- the id of the load and there is nothing left to do.
local id, loading = unpack(redis.call('HMGET', KEYS[1], 'id', 'loading'))
if loading ~= ARGV[1] then
  return answer(not loading and id == ARGV[1] and 'ok' or 'other')
end
local at = 2
while at <= #ARGV do
  local words = tonumber(ARGV[at])
  redis.call(unpack(ARGV, at + 1, at + words))
  at = at + words + 1
end
return answer('ok')
