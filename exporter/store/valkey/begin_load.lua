-- Deletes what is here, and begins a load. Nothing is done if something else is here by now.
-- ARGV[1]: what is here: the id of a store or of a load; empty for nothing.
-- ARGV[2]: the id of the new load; empty to begin none.
local id, loading = unpack(redis.call('HMGET', KEYS[1], 'id', 'loading'))
if loading and loading == ARGV[2] then
  return answer('ok')  -- this script runs again because its answer was lost
end
if (loading or id or '') ~= ARGV[1] then
  return answer('other')
end
for _, number in ipairs(redis.call('HVALS', key('ledgers'))) do
  redis.call('UNLINK', key('ledger:' .. number))
end
-- The last three are keys of earlier versions, see common.lua.
for name in string.gmatch(
  'meta ledgers seen tasks places due state:0 state:1 state:2 state:3 sources held bodies last done probed ' ..
  'changed forgotten posted', '%S+'
) do
  redis.call('UNLINK', key(name))
end
if ARGV[2] ~= '' then
  redis.call('HSET', KEYS[1], 'loading', ARGV[2])
end
return answer('ok')
