-- ARGV: a move, and the id of the store that it may replace, empty for none. What has arrived gets its names, all at
-- once.
local to = string.gsub(at, ARRIVING .. '$', '')
local id, origin = unpack(redis.call('HMGET', to .. 'meta', 'id', 'origin'))
if origin == ARGV[1] then
  return answer('ok')  -- tried again because its answer was lost
end
if redis.call('HGET', KEYS[1], 'origin') ~= ARGV[1] then
  return answer('gone')
end
if (id or '') ~= ARGV[2] then
  return answer('there')
end
for _, name in ipairs(names(to)) do
  redis.call('UNLINK', name)
end
for _, name in ipairs(names(at)) do
  if redis.call('EXISTS', name) == 1 then
    redis.call('PERSIST', name)
    redis.call('RENAME', name, to .. string.sub(name, #at + 1))
  end
end
return answer('ok')
