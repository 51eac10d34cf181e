-- A wrk script: it sends TaskStart callbacks, each of a different task.
-- Arguments: the number of the first task; the number of callbacks, 0 for as many as the time allows; the number
-- of destinations; additional JSON fields of every body, with a comma at their end.
-- Only the number of the task and the time change. The rest is built once, so that a request costs one concatenation.

local outcome = require("outcome")
local SECOND_IN_REQUESTS = 500  -- update the time in the bodies after this number of requests

local body = {
    [[{"appid":1250000001,"event_type":314,"interface":"general_callback","product_name":"pullpush",]]
        .. [["source_urls":"[\"http://origin.example.com/vod/]],
    [[.m3u8?sign=s3cr3t\"]\n","stream_id":"room]],
    [[","task_id":"]],
    [[","to_url":"rtmp://]],
    [[.livepush.myqcloud.com/live/room]],
    [[?txSecret=0123456789abcdef0123456789abcdef&txTime=6A000000","callback_event":"TaskStart","event_time":"]],
    [[","msg":"{\"task_start_time\":]],
    [[000}"}]],
}

local task, hosts, head, tail

local function put_together()
    local seconds = os.time()
    tail = body[6] .. seconds .. body[7] .. seconds .. body[8]
end

local function one()
    local host = 5000 + task % hosts
    return head .. task .. body[2] .. task .. body[3] .. task .. body[4] .. host .. body[5] .. task .. tail
end

function init(args)
    task, hosts = tonumber(args[1]), tonumber(args[3])
    body[1] = "{" .. (args[4] or "") .. body[1]:sub(2)
    head = ""
    put_together()
    head = outcome.head(wrk.path, "application/json", #(body[1] .. one())) .. body[1]
    outcome.send(tonumber(args[2]), function()
        task = task + 1
        if task % SECOND_IN_REQUESTS == 0 then
            put_together()
        end
        return one()
    end)
end
