'use strict';

const $ = (id) => document.getElementById(id);
const messages = [];
let running = null;

/** What is known of the context of the newest answer. */
let context = null;
/** The token whose reads are shown, and the page and layer that are pointed at. */
let shown = -1;
let pointed = null;

function headers() {
  const key = $('key').value;
  return { 'content-type': 'application/json', ...(key && { authorization: `Bearer ${key}` }) };
}

function note(text) {
  $('note').textContent = text;
  $('note').className = '';
}

function problem(text) {
  note(text);
  $('note').className = 'problem';
}

async function errorOf(response) {
  try {
    return (await response.json()).error;
  } catch {
    return { message: `the server answered ${response.status}` };
  }
}

async function loadModel() {
  const response = await fetch('v1/models', { headers: headers() });
  if (response.status === 401) {
    $('settings').open = true;
    problem('This server asks for a key.');
    return;
  }
  const model = (await response.json()).data[0];
  $('model').textContent = `${model.id}, ${model.max_model_len} tokens`;
  note('');
}

function addMessage(role, text) {
  const item = document.createElement('li');
  item.className = role;
  item.textContent = text;
  $('messages').append(item);
  item.scrollIntoView({ block: 'end' });
  return item;
}

function request(text) {
  const number = (id) => ($(id).value === '' ? undefined : Number($(id).value));
  const body = {
    stream: true,
    stream_options: { include_usage: true },
    max_tokens: number('tokens'),
    temperature: number('temperature'),
    quest: {
      watch: true,
      policy: $('policy').value || undefined,
      token_budget: $('policy').value === 'dense' ? undefined : number('budget'),
    },
  };
  if ($('mode').value === 'chat') {
    body.messages = messages;
  } else {
    body.prompt = text;
  }
  return body;
}

/** The events of a stream, as objects. */
async function* events(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = '';
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    const parts = (rest + value).split('\n\n');
    rest = parts.pop();
    for (const part of parts) {
      if (!part.startsWith('data: ')) continue;
      const data = part.slice('data: '.length);
      if (data === '[DONE]') return;
      yield JSON.parse(data);
    }
  }
}

async function ask(text) {
  const isChat = $('mode').value === 'chat';
  if (isChat) messages.push({ role: 'user', content: text });
  addMessage('user', text);
  running = new AbortController();
  $('send').disabled = true;
  $('stop').hidden = false;
  note('');
  let answer = '';
  let item = null;
  try {
    const path = isChat ? 'v1/chat/completions' : 'v1/completions';
    const response = await fetch(path, {
      method: 'POST',
      headers: headers(),
      body: JSON.stringify(request(text)),
      signal: running.signal,
    });
    if (!response.ok) {
      const error = await errorOf(response);
      if (isChat) messages.pop();
      if (error.code === 'no_chat_template') {
        $('mode').value = 'completion';
        problem('This model has no chat template: texts are continued instead. Send again.');
        $('text').value = text;
        $('messages').lastElementChild.remove();
      } else {
        problem(error.message);
        if (response.status === 401) $('settings').open = true;
      }
      return;
    }
    item = addMessage('assistant', '');
    for await (const event of events(response)) {
      if (event.error) throw new Error(event.error.message);
      if (event.usage) {
        const { prompt_tokens, completion_tokens, prompt_tokens_details } = event.usage;
        const cached = prompt_tokens_details.cached_tokens;
        note(`${prompt_tokens} tokens of prompt (${cached} from the cache), ${completion_tokens} of answer`);
      }
      if (event.quest?.context) begin(event.quest.context);
      const choice = event.choices[0];
      if (!choice) continue;
      const piece = choice.delta ? choice.delta.content : choice.text;
      if (piece || event.quest?.reads) {
        answer += piece || '';
        addToken(item, piece || '', event.quest?.reads || []);
      }
    }
  } catch (error) {
    if (error.name !== 'AbortError') problem(error.message);
  } finally {
    if (isChat && item) messages.push({ role: 'assistant', content: answer });
    running = null;
    $('send').disabled = false;
    $('stop').hidden = true;
  }
}

/** A new context: the pages of a prompt. */
function begin(given) {
  context = {
    size: given.page_size,
    layers: given.layers,
    prompt: given.prompt_tokens,
    pages: given.pages.slice(),
    tokens: [],
    counts: Array.from({ length: given.layers }, () => []),
  };
  shown = -1;
  pointed = null;
  for (const id of ['scroll', 'legend']) $(id).hidden = false;
  $('hint').hidden = true;
  $('page').hidden = true;
  draw();
}

/** A token of the answer, with what was read for it. */
function addToken(item, text, reads) {
  const span = document.createElement('span');
  span.textContent = text;
  item.append(span);
  item.scrollTop = item.scrollHeight;
  $('messages').scrollTop = $('messages').scrollHeight;
  if (!context) return;
  const token = context.tokens.length;
  const page = Math.floor((context.prompt + token) / context.size);
  context.pages[page] = (context.pages[page] || '') + text;
  context.tokens.push({ span, reads });
  for (const read of reads) {
    const counts = context.counts[read.layer] || [];
    for (const p of pagesOf(read)) counts[p] = (counts[p] || 0) + 1;
  }
  const own = context;
  span.addEventListener('click', () => own === context && show(token));
  show(token);
}

function pagesOf(read) {
  return read.pages ?? context.pages.keys();
}

function show(token) {
  context.tokens[shown]?.span.classList.remove('chosen');
  shown = token;
  const { span, reads } = context.tokens[token];
  if (!running) span.classList.add('chosen');
  const listed = reads.filter((read) => read.pages);
  const sum = listed.reduce((n, read) => n + read.pages.length, 0);
  const all = reads.length * context.pages.length;
  const share = listed.length ? Math.round((100 * (sum + (reads.length - listed.length) * context.pages.length)) / all) : 100;
  $('token').textContent = `token ${token + 1}: ${context.pages.length} pages, ${share} % read`;
  requestAnimationFrame(draw);
}

function cell() {
  const width = Math.floor(($('context').clientWidth - 40) / context.pages.length);
  return { width: Math.max(3, Math.min(16, width)), height: context.layers > 24 ? 8 : 14 };
}

function draw() {
  if (!context) return;
  const map = $('map');
  const { width, height } = cell();
  const ratio = window.devicePixelRatio || 1;
  // Browsers draw nothing on a canvas that is too wide.
  const columns = Math.min(context.pages.length, Math.floor(16000 / ratio / width));
  map.width = columns * width * ratio;
  map.height = context.layers * height * ratio;
  map.style.width = `${columns * width}px`;
  map.style.height = `${context.layers * height}px`;
  const pen = map.getContext('2d');
  pen.scale(ratio, ratio);
  const style = getComputedStyle(document.documentElement);
  const color = (name) => {
    const probe = document.querySelector(`.key.${name}`);
    return getComputedStyle(probe).backgroundColor || style.getPropertyValue(`--${name}`);
  };
  const colors = { now: color('now'), some: color('some'), none: color('none') };
  const reads = context.tokens[shown]?.reads || [];
  const now = new Map(reads.map((read) => [read.layer, read.pages && new Set(read.pages)]));
  const most = Math.max(1, context.tokens.length);
  for (let layer = 0; layer < context.layers; layer++) {
    for (let page = 0; page < columns; page++) {
      const count = context.counts[layer][page] || 0;
      const isNow = now.has(layer) && (now.get(layer)?.has(page) ?? true);
      pen.globalAlpha = 1;
      pen.fillStyle = colors.none;
      const box = [page * width, layer * height, width - 1, height - 1];
      pen.fillRect(...box);
      if (isNow) {
        pen.fillStyle = colors.now;
        pen.fillRect(...box);
      } else if (count) {
        pen.globalAlpha = 0.25 + 0.75 * Math.min(1, count / most);
        pen.fillStyle = colors.some;
        pen.fillRect(...box);
      }
    }
  }
  if (pointed) {
    pen.globalAlpha = 1;
    pen.strokeStyle = getComputedStyle(document.body).color;
    pen.lineWidth = 2;
    pen.strokeRect(pointed.page * width, pointed.layer * height, width - 1, height - 1);
  }
}

function point(page, layer) {
  page = Math.max(0, Math.min(context.pages.length - 1, page));
  layer = Math.max(0, Math.min(context.layers - 1, layer));
  pointed = { page, layer };
  const first = page * context.size;
  const end = Math.min(first + context.size, context.prompt + context.tokens.length);
  const count = context.counts[layer][page] || 0;
  $('where').textContent =
    `Page ${page}, tokens ${first} to ${Math.max(first, end - 1)}; layer ${layer} read it for ${count} of ${context.tokens.length} tokens`;
  $('behind').textContent = context.pages[page] || '';
  $('page').hidden = false;
  draw();
}

function pointAt(event) {
  if (!context) return;
  const { width, height } = cell();
  point(Math.floor(event.offsetX / width), Math.floor(event.offsetY / height));
}

$('map').addEventListener('pointermove', pointAt);
$('map').addEventListener('pointerdown', pointAt);
$('map').addEventListener('keydown', (event) => {
  const step = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
  if (!step || !context) return;
  event.preventDefault();
  point((pointed?.page ?? 0) + step[0], (pointed?.layer ?? 0) + step[1]);
});
$('form').addEventListener('submit', (event) => {
  event.preventDefault();
  const text = $('text').value;
  if (running || !text) return;
  $('text').value = '';
  ask(text);
});
$('text').addEventListener('keydown', (event) => {
  if (event.key === 'Enter' && !event.shiftKey && !event.isComposing && $('mode').value === 'chat') {
    event.preventDefault();
    $('form').requestSubmit();
  }
});
$('stop').addEventListener('click', () => running?.abort());
$('clear').addEventListener('click', () => {
  running?.abort();
  messages.length = 0;
  $('messages').replaceChildren();
  context = null;
  note('');
  $('token').textContent = '';
  for (const id of ['scroll', 'legend', 'page']) $(id).hidden = true;
  $('hint').hidden = false;
});
$('key').addEventListener('change', loadModel);
window.addEventListener('resize', draw);
loadModel().catch(() => problem('The server does not answer.'));
