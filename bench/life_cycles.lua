-- A wrk script: it sends complete life cycles of tasks, several tasks in lockstep. A life cycle is a start, sixteen
-- files (each start is sent twice, each finish once) and an exit: 50 callbacks. After 10,000 callbacks for 200
-- tasks at a time no task is on air.
-- Arguments: the number of the first task; the number of callbacks; the number of destinations; an unused argument;
-- the number of tasks on air at a time.

local outcome = require("outcome")
local FILES = 16
local LIFE = 2 + 3 * FILES

local last = {}  -- the newest callback of each task, for its redelivery

local function event(step)
    local seconds = outcome.now()
    local file = math.floor((step - 1) / 3)
    local time = string.format("%.0f", seconds * 1000)
    if step == 0 then
        return "TaskStart", seconds, [[{\"task_start_time\":]] .. time .. "}"
    elseif step == LIFE - 1 then
        return "TaskExit", seconds, [[{\"code\":0,\"task_exit_time\":]] .. time .. "}"
    end
    local name = step % 3 == 0 and "VodSourceFileFinish" or "VodSourceFileStart"
    return name, seconds, [[{\"duration\":60,\"index\":]] .. file
        .. [[,\"url\":\"http://origin.example.com/vod/]] .. file .. [[.m3u8?sign=s3cr3t\"}]]
end

local function body(task, host, step)
    local name, seconds, msg = event(step)
    return [[{"appid":1250000001,"event_type":314,"interface":"general_callback","product_name":"pullpush",]]
        .. [["source_urls":"[\"http://origin.example.com/vod/]] .. task .. [[.m3u8?sign=s3cr3t\"]\n","stream_id":"room]]
        .. task .. [[","task_id":"]] .. task .. [[","to_url":"rtmp://]] .. host
        .. [[.livepush.myqcloud.com/live/room]] .. task .. [[?txSecret=0123456789abcdef0123456789abcdef&txTime=6A000000",]]
        .. [["callback_event":"]] .. name .. [[","event_time":"]] .. math.floor(seconds) .. [[","msg":"]] .. msg .. [["}]]
end

function init(args)
    local first, hosts, tasks = tonumber(args[1]), tonumber(args[3]), tonumber(args[5])
    local number = -1
    outcome.send(tonumber(args[2]), function()
        number = number + 1
        local lane, round = number % tasks, math.floor(number / tasks)
        local task, step = first + math.floor(round / LIFE) * tasks + lane, round % LIFE
        if step == 0 or step == LIFE - 1 or step % 3 ~= 2 then
            last[lane] = body(task, 5000 + task % hosts, step)
        end
        return outcome.head(wrk.path, "application/json", #last[lane]) .. last[lane]
    end)
end
