// A producer or a push consumer of the Node client.
//
//   node client.js produce NAMESRV GROUP TOPIC COUNT
//   node client.js consume NAMESRV GROUP TOPIC        until its standard input ends; prints one line per message
'use strict';

const { Consumer, Producer, Message } = require('ali-ons');

const quiet = { info() {}, debug() {}, warn() {}, error: (...parts) => console.error(...parts) };
// The client insists on a key and a client for HTTP, which it uses only to find name servers that are not given.
const common = namesrv => ({
  nameSrv: namesrv, httpclient: {}, accessKeyId: 'key', accessKeySecret: 'secret', logger: quiet,
});

async function produce(namesrv, group, topic, count) {
  const producer = new Producer({ ...common(namesrv), producerGroup: group });
  await producer.ready();
  let sent = 0;
  for (let number = 0; number < Number(count); number++) {
    const message = new Message(topic, number % 2 ? 'node' : 'other', `body ${number}`);
    message.keys = [ `key-${number}` ];
    const result = await producer.send(message);
    if (result.sendStatus === 'SEND_OK') sent++;
  }
  await producer.close();
  console.log(`sent ${sent}`);
}

async function consume(namesrv, group, topic) {
  const consumer = new Consumer({ ...common(namesrv), consumerGroup: group });
  consumer.subscribe(topic, '*', async message => {
    console.log(`${message.queueId} ${message.queueOffset} ${message.body}`);
  });
  consumer.on('error', error => console.error(error));
  await consumer.ready();
  console.log('started');
  process.stdin.resume();
  await new Promise(resolve => process.stdin.once('end', resolve));
  await consumer.close();
}

const [ command, ...rest ] = process.argv.slice(2);
({ produce, consume })[command](...rest).then(() => process.exit(0), error => {
  console.error(error);
  process.exit(1);
});
