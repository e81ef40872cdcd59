-- Looks at messages that no consumer has, behind one that was seen before, and leaves them as they are.
--
-- KEYS: queue. ARGV: group, lease in ms, the id that was seen last or '', how many entries to look at.
-- Returns the id of the last entry that was looked at, or '' at the end of the queue; and the messages ({id, fields}).

return run(function()
    local queue, group, lease, after, count = KEYS[1], ARGV[1], tonumber(ARGV[2]), ARGV[3], ARGV[4]
    local ours = require_queue(queue, group)
    local entries = call('XRANGE', queue, after == '' and '-' or '(' .. after, '+', 'COUNT', count)
    if #entries == 0 then
        return {'', {}}
    end
    local first, last = entries[1][1], entries[#entries][1]
    local held = {}
    if ours.pending > 0 then
        for _, pending in ipairs(call('XPENDING', queue, group, first, last, ours.pending)) do
            held[pending[1]] = pending[3] < lease
        end
    end
    local free = {}
    for _, entry in ipairs(entries) do
        if not held[entry[1]] then
            free[#free + 1] = entry
        end
    end
    return {last, free}
end)
