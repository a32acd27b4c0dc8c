# The command line as an image: `docker build -t liventix .`, then `docker run liventix migrate`, `worker`, `doctor`, …

FROM node:24.21-slim AS build
WORKDIR /app
COPY package.json package-lock.json ./
# The pinned Node comes by an install script, and the embedded PostgreSQL is optional and not wanted here.
RUN npm ci --omit=optional --no-audit --no-fund
COPY . .
RUN npm run build

FROM node:24.21-slim AS production
WORKDIR /app
COPY package.json package-lock.json ./
RUN npm ci --omit=dev --omit=optional --no-audit --no-fund && npm cache clean --force

FROM node:24.21-slim
ENV NODE_ENV=production
WORKDIR /app
COPY --from=production /app/node_modules ./node_modules
COPY package.json ./
COPY bin ./bin
COPY migrations ./migrations
COPY mappings ./mappings
COPY compat ./compat
COPY fixtures ./fixtures
COPY --from=build /app/dist ./dist
# Of the files above none is the user's to change.
USER node
# No HEALTHCHECK: what is healthy depends on the command; docker-compose.yml has the worker's.
ENTRYPOINT ["node", "/app/bin/liventix"]
CMD ["worker"]
