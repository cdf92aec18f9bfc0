// A producer or a push consumer of the Node client.
//
//   node client.js produce NAMESRV GROUP TOPIC COUNT
//   node client.js consume NAMESRV GROUP TOPIC INSTANCE [ordered MILLIS]
//
// A consumer runs until its standard input ends and prints one line per message: "QUEUE OFFSET BODY"; with `ordered`,
// where each message takes MILLIS, "QUEUE BODY BEGIN END". That is no ordered consumption: this client knows no locks. It
// only handles the messages of a queue one after the other.
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

async function consume(namesrv, group, topic, instance, mode, millis) {
  const consumer = new Consumer({ ...common(namesrv), consumerGroup: group });
  consumer.subscribe(topic, '*', async message => {
    if (mode === 'ordered') {
      const begin = Date.now();
      await new Promise(resolve => setTimeout(resolve, Number(millis)));
      console.log(`${message.queueId} ${message.body} ${begin} ${Date.now()}`);
    } else {
      console.log(`${message.queueId} ${message.queueOffset} ${message.body}`);
    }
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
