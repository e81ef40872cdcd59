const message = JSON.parse(std.in.readAsString());
const sum = message.values.reduce((sum, value) => sum + value, 0);
print(JSON.stringify({ mean: sum / message.values.length }));
