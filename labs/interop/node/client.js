// A producer or a push consumer of the Node client.
//
//   node client.js produce NAMESRV GROUP TOPIC COUNT [delayed WAITS]
//   node client.js prepare NAMESRV GROUP TOPIC BODY...      sends half messages and waits for its end; it can end none
//   node client.js consume NAMESRV GROUP TOPIC INSTANCE [ordered MILLIS]
//   node client.js fail NAMESRV GROUP TOPIC            every message fails, two more tries; prints "TRIES QUEUE BODY"
//
// WAITS are separated by commas, and messages take them in turn: a delay level as "2", seconds as "5s", milliseconds as
// "1500ms", or milliseconds as "@1500", which ask for the time that is so far away.
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

function delay(message, wait) {
  if (wait.startsWith('@')) message.properties.TIMER_DELIVER_MS = String(Date.now() + Number(wait.slice(1)));
  else if (wait.endsWith('ms')) message.properties.TIMER_DELAY_MS = wait.slice(0, -2);
  else if (wait.endsWith('s')) message.properties.TIMER_DELAY_SEC = wait.slice(0, -1);
  else message.delayTimeLevel = Number(wait);
}

async function inputEnds() {
  process.stdin.resume();
  await new Promise(resolve => process.stdin.once('end', resolve));
}

async function produce(namesrv, group, topic, count, mode, value) {
  const producer = new Producer({ ...common(namesrv), producerGroup: group });
  await producer.ready();
  let sent = 0;
  for (let number = 0; number < Number(count); number++) {
    const message = new Message(topic, number % 2 ? 'node' : 'other', `body ${number}`);
    message.keys = [ `key-${number}` ];
    if (mode === 'delayed') {
      const waits = value.split(',');
      delay(message, waits[number % waits.length]);
    }
    const result = await producer.send(message);
    if (result.sendStatus === 'SEND_OK') sent++;
  }
  await producer.close();
  console.log(`sent ${sent}`);
}

async function prepare(namesrv, group, topic, ...bodies) {
  const producer = new Producer({ ...common(namesrv), producerGroup: group });
  await producer.ready();
  for (const body of bodies) {
    const message = new Message(topic, 'node', body);
    // What a transactional producer sets before it sends; this client knows the mark, but no way to end a transaction.
    Object.assign(message.properties, { TRAN_MSG: 'true', PGROUP: group });
    console.log(`${body} ${(await producer.send(message)).sendStatus}`);
  }
  console.log('sent');
  await inputEnds();
  await producer.close();
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
  await inputEnds();
  await consumer.close();
}

async function fail(namesrv, group, topic) {
  const consumer = new Consumer({ ...common(namesrv), consumerGroup: group, maxReconsumeTimes: 2 });
  consumer.subscribe(topic, '*', async message => {
    console.log(`${message.reconsumeTimes} ${message.queueId} ${message.body}`);
    throw new Error('as it should be');
  });
  consumer.on('error', () => {});
  await consumer.ready();
  console.log('started');
  await inputEnds();
  await consumer.close();
}

const [ command, ...rest ] = process.argv.slice(2);
({ produce, prepare, consume, fail })[command](...rest).then(() => process.exit(0), error => {
  console.error(error);
  process.exit(1);
});
