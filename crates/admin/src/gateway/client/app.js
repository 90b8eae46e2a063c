// A small player's client: through the door into a town, walk, hear, read what scripts show. Start here; the gateway's frames are in
// protocol.js. What it shows of its state for tests and people is in <body data-…> and the line at the top.

import { Connection } from '/client/connection.js';
import { Controls } from '/client/controls.js';
import { Picture } from '/client/draw.js';
import { Elements } from '/client/elements.js';
import { Scene } from '/client/scene.js';
import { Sounds } from '/client/sound.js';

/** The script that players call in the sample town. */
const SCRIPT = 'avatar';
/** Milliseconds between two words to the script: not more often, and not more seldom, or it believes that nobody is there. */
const SAY_EVERY = 60;
const SAY_AT_LEAST = 2_000;

const $ = (id) => document.getElementById(id);
const scene = new Scene();
const sounds = new Sounds();
const elements = new Elements($('elements'));
const picture = new Picture($('world'));
const controls = new Controls($('world'), () => say(), () => { if (playing()) connection.send(SCRIPT, 'wave', []); });
const connection = new Connection({ frame: onFrame, state: setState, refused: showDoor });

/** The number of one's own entity. */
let me = null;
let last = { text: '', at: 0 };

const playing = () => document.body.dataset.state === 'playing';

function setState(state, text) {
  document.body.dataset.state = state;
  $('link').textContent = text;
}

function forget() {
  scene.clear();
  sounds.clear();
  elements.clear();
  me = null;
}

function onFrame(frame) {
  switch (frame.frame) {
    case 'welcome':
      forget();
      scene.hz = frame.hz;
      setState('playing', `${frame.name} in ${frame.world}`);
      $('world').focus();
      break;
    case 'snapshot':
    case 'tick':
      scene.apply(frame, performance.now());
      $('notice').hidden = true;
      break;
    case 'commands': frame.commands.forEach(onCommand); break;
    case 'resync':
      forget();
      notice(frame.reason === 1 ? 'The town is on its way to another machine…' : 'The town begins anew…');
      break;
    case 'refused': if (frame.reason === 4) notice('This town has no script for players'); break;
  }
}

function onCommand(command) {
  switch (command.command) {
    case 'show': elements.show(command.element, command.text); break;
    case 'text': elements.text(command.element, command.text); break;
    case 'hide': elements.hide(command.element); break;
    case 'play': sounds.play(command); break;
    case 'stop': sounds.stop(command.handle); break;
    case 'move': sounds.move(command); break;
    case 'tune': sounds.tune(command); break;
    case 'event':
      if (command.topic === 'you' && command.payload.length === 8) me = new DataView(command.payload.buffer).getBigUint64(0, true);
      break;
  }
}

function notice(text) {
  $('notice').textContent = text;
  $('notice').hidden = false;
}

/** Tell the script where one walks, if that has changed or it is time. */
function say() {
  if (!playing()) return;
  const payload = controls.direction().map((part) => Math.round(part * 127) & 255);
  const now = performance.now();
  const changed = payload.join() !== last.text;
  if ((changed && now - last.at >= SAY_EVERY) || now - last.at >= SAY_AT_LEAST) {
    if (connection.send(SCRIPT, 'walk', payload)) last = { text: payload.join(), at: now };
  }
}

function frame(now) {
  say();
  picture.draw(scene, me, now);
  const own = scene.find(me);
  if (own) sounds.listen(scene.pose(own, now));
  $('where').textContent = own ? `${own.to.x.toFixed(1)} east, ${own.to.z.toFixed(1)} south` : '';
  Object.assign(document.body.dataset, { entities: scene.slots.size, sounds: sounds.count, tick: scene.tick });
  requestAnimationFrame(frame);
}

function showDoor(why) {
  forget();
  setState('door', '');
  $('notice').hidden = true;
  $('why').textContent = why;
  $('why').hidden = !why;
  $('name').focus();
}

$('door').addEventListener('submit', (event) => {
  event.preventDefault();
  sounds.wake();
  const [world, name, token] = ['world-name', 'name', 'token'].map((id) => $(id).value.trim());
  connection.open(world, name, token);
});
$('leave').addEventListener('click', () => { connection.close(); showDoor(''); });
$('mute').addEventListener('click', () => {
  sounds.mute(!sounds.muted);
  $('mute').setAttribute('aria-pressed', sounds.muted);
  $('mute').textContent = sounds.muted ? 'Sound off' : 'Sound on';
});

// A link may say who and where: /#world=town-1&token=…; what is behind # is sent to nobody.
const given = new URLSearchParams(location.hash.slice(1));
for (const [id, key] of [['world-name', 'world'], ['name', 'name'], ['token', 'token']]) if (given.has(key)) $(id).value = given.get(key);
if (given.has('token')) history.replaceState(null, '', location.pathname);
fetch('/worlds').then((answer) => answer.json()).then((names) => {
  $('worlds').replaceChildren(...names.slice(0, 200).map((name) => Object.assign(document.createElement('option'), { value: name })));
  if (!$('world-name').value) $('world-name').value = names[0] ?? '';
}).catch(() => {});
requestAnimationFrame(frame);
