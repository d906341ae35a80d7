'use strict';

const express = require('express');
const log = require('pino')();

const app = express();
app.get('/healthz', (request, response) => response.json({ ok: true }));
app.get('/', (request, response) => response.send('hello from the slipway\n'));

const port = process.env.PORT || 8080;
app.listen(port, () => log.info({ port }, 'listening'));
