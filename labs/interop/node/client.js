// The Node client with the commands that all clients of these labs have; see other_clients.py.
'use strict';

const { Consumer, Producer, Message } = require('ali-ons');

const quiet = { info() {}, debug() {}, warn() {}, error: (...parts) => console.error(...parts) };
// The client insists on a key and a client for HTTP, which it uses only to find name servers that are not given.
const common = namesrv => ({
  nameSrv: namesrv, httpclient: {}, accessKeyId: 'key', accessKeySecret: 'secret', logger: quiet,
});

async function startedProducer(namesrv, group) {
  const producer = new Producer({ ...common(namesrv), producerGroup: group });
  await producer.ready();
  return producer;
}

async function send(producer, topic, tags, keys, body, change = () => {}) {
  const message = new Message(topic, tags, body);
  message.keys = [ keys ];
  change(message);
  const result = await producer.send(message);
  if (result.sendStatus !== 'SEND_OK') throw new Error(`the send of ${body} ended as ${result.sendStatus}`);
}

async function produce(namesrv, group, topic, count) {
  const producer = await startedProducer(namesrv, group);
  for (let number = 0; number < Number(count); number++) {
    await send(producer, topic, 'TagA', `key-${number}`, `body ${number}`);
  }
  await producer.close();
  console.log(`sent ${count}`);
}

async function mixture(namesrv, group, topic) {
  const producer = await startedProducer(namesrv, group);
  for (let n = 0; n < 10; n++) {
    await send(producer, topic, n % 2 ? 'odd' : 'even', `k${n}`, `n${n}`, message => {
      message.properties.n = String(n);
    });
  }
  await send(producer, topic, 'big', 'big', 'abcdefgh'.repeat(2000));
  for (let n = 0; n < 5; n++) {
    await send(producer, topic, 'sharded', `s${n}`, 'same', message => { message.shardingKey = 'key'; });
  }
  await send(producer, topic, 'last', 'l', 'last');
  await producer.close();
  console.log('mixture sent');
}

async function read(namesrv, topic, ...readers) {
  const consumers = [];
  for (const reader of readers) {
    const [ name, group, model, kind, ...rest ] = reader.split('|');
    const expression = rest.join('|');
    const consumer = new Consumer({
      ...common(namesrv), consumerGroup: group, instanceName: name, isBroadcast: model === 'BROADCASTING',
    });
    consumer.subscribe(
      topic, kind === 'TAG' ? expression : { expressionType: kind, subString: expression }, async message => {
        console.log(`${name} ${message.queueId} ${message.queueOffset} ${message.body}`);
      });
    consumer.on('error', error => console.error(error));
    await consumer.ready();
    consumers.push(consumer);
  }
  console.log('started');
  process.stdin.resume();
  await new Promise(resolve => process.stdin.once('end', resolve));
  for (const consumer of consumers) await consumer.close();
}

const [ command, ...rest ] = process.argv.slice(2);
({ produce, mixture, read })[command](...rest).then(() => process.exit(0), error => {
  console.error(error);
  process.exit(1);
});
