-- A wrk script: it pushes two metrics to a Pushgateway, as a client library would after every callback, with one
-- group per destination.
-- Arguments: the first value of the counter; the number of pushes, 0 for as many as the time allows; the number of
-- destinations.

local outcome = require("outcome")

local body = {
    "# TYPE css_relay_tasks_started_total counter\ncss_relay_tasks_started_total ",
    "\n# TYPE css_relay_last_callback_timestamp_seconds gauge\ncss_relay_last_callback_timestamp_seconds ",
}

function init(args)
    local number, hosts = tonumber(args[1]), tonumber(args[3])
    outcome.send(tonumber(args[2]), function()
        number = number + 1
        local text = body[1] .. number .. body[2] .. os.time() .. "\n"
        local path = wrk.path .. "/to_host/" .. 5000 + number % hosts .. ".livepush.myqcloud.com"
        return outcome.head(path, "text/plain; version=0.0.4", #text) .. text
    end)
end
