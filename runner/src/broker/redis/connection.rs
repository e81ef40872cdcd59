//! One connection to a server, and calls over it.

use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Cmd, ErrorKind, RedisError, ServerErrorKind, Value};

use super::error::{failed, unanswered, unconnected};
use super::scripts::{Loaded, Script, spelled_out};
use super::url::Url;
use super::value;
use crate::broker::error::Error;

/// A connection. Requests that are made side by side go out one behind the other, and are answered in this order.
#[derive(Clone)]
pub struct Connection {
    url: Url,
    /// In the words of an error.
    queue: String,
    inner: MultiplexedConnection,
    scripts: Loaded,
}

/// What the server gets to know at the beginning.
#[derive(Clone, Copy)]
enum Loads {
    Scripts,
    Nothing,
}

impl Connection {
    /// Connects, logs in, and makes the scripts known. `answers_within` bounds each request after that; `None` is for those
    /// that wait. The library has a bound of its own otherwise, of half a second, after which the server goes on waiting and
    /// hands the next message to nobody.
    ///
    /// # Errors
    /// [`Error::Unreachable`], [`Error::Tls`], [`Error::Credentials`], [`Error::Forbidden`], or [`Error::Settings`] for certificates that can't
    /// be read and servers that can't be used.
    pub async fn open(url: &Url, queue: &str, answers_within: Option<Duration>) -> Result<Connection, Error> {
        Connection::connect(url, queue, answers_within, Loads::Scripts).await
    }

    /// The same, without scripts: nothing is left on the server.
    ///
    /// # Errors
    /// As [`Connection::open`].
    pub async fn look(url: &Url, queue: &str, answers_within: Duration) -> Result<Connection, Error> {
        Connection::connect(url, queue, Some(answers_within), Loads::Nothing).await
    }

    async fn connect(
        url: &Url,
        queue: &str,
        answers_within: Option<Duration>,
        loads: Loads,
    ) -> Result<Connection, Error> {
        let client = url.client().map_err(|(path, source)| Error::Settings {
            what: format!("the certificate file {}", path.display()),
            source,
        })?;
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(url.connect_timeout))
            .set_response_timeout(answers_within);
        let connecting = async {
            let mut inner = client.get_multiplexed_async_connection_with_config(&config).await?;
            let names: Vec<String> = match loads {
                Loads::Scripts => Loaded::loading().query_async(&mut inner).await.map_err(first_of_many)?,
                // Something has to be asked: a server that wants a certificate says so with its first answer.
                Loads::Nothing => redis::cmd("PING").query_async::<Value>(&mut inner).await.map(|_| Vec::new())?,
            };
            Ok((inner, Loaded::new(names)))
        };
        // For all steps together: the library bounds each on its own, and the login not at all.
        let within = humantime::format_duration(url.connect_timeout);
        let (inner, scripts) = match tokio::time::timeout(url.connect_timeout, connecting).await {
            Ok(Ok(connected)) => connected,
            Ok(Err(error)) => return Err(unconnected(url, error).await),
            Err(_) => return Err(unanswered(url, format!("no answer within {within}").into()).await),
        };
        Ok(Connection { url: url.clone(), queue: queue.to_owned(), inner, scripts })
    }

    /// Runs a script. `doing` names what it does to the queue, for errors.
    pub async fn run(
        &self,
        doing: &str,
        script: Script,
        keys: &[&str],
        add_arguments: impl Fn(&mut Cmd),
    ) -> Result<Value, Error> {
        let with_arguments = |mut call: Cmd| {
            call.arg(keys.len()).arg(keys);
            add_arguments(&mut call);
            call
        };
        let called = match self.scripts.call(script) {
            Some(call) => self.ask(with_arguments(call)).await,
            None => Err(forgotten()),
        };
        let answer = match called {
            // After `SCRIPT FLUSH`, or a failover.
            Err(error) if error.kind() == ErrorKind::Server(ServerErrorKind::NoScript) => {
                self.ask(with_arguments(spelled_out(script))).await
            }
            answer => answer,
        };
        answer.map_err(|error| failed(&self.url, &self.queue, doing, error))
    }

    /// Runs a script for each of several items, and returns their answers. The server carries them out in their order.
    ///
    /// # Errors
    /// When no answer came at all.
    pub async fn run_all<T>(
        &self,
        doing: &str,
        script: Script,
        keys: &[&str],
        items: &[T],
        add_arguments: impl Fn(&mut Cmd, &T),
    ) -> Result<Vec<Result<Value, Error>>, Error> {
        let calls = items.iter().map(|item| {
            let mut call = self.scripts.call(script).unwrap_or_else(|| spelled_out(script));
            call.arg(keys.len()).arg(keys);
            add_arguments(&mut call, item);
            call
        });
        let mut answers = Vec::with_capacity(items.len());
        let queue = self.queue.clone();
        for (item, answer) in
            items.iter().zip(self.ask_all(calls).await.map_err(|error| self.failed(&queue, doing, error))?)
        {
            answers.push(match answer {
                Err(error) if error.kind() == ErrorKind::Server(ServerErrorKind::NoScript) => {
                    self.run(doing, script, keys, |call| add_arguments(call, item)).await
                }
                answer => answer.map_err(|error| self.failed(&queue, doing, error)),
            });
        }
        Ok(answers)
    }

    /// Makes several requests, and returns their answers. The server carries them out in their order.
    ///
    /// # Errors
    /// When no answer came at all.
    pub async fn requests(
        &self,
        doing: &str,
        queue: &str,
        requests: impl Iterator<Item = Cmd>,
    ) -> Result<Vec<Result<Value, Error>>, Error> {
        let answers = self.ask_all(requests).await.map_err(|error| self.failed(queue, doing, error))?;
        Ok(answers.into_iter().map(|answer| answer.map_err(|error| self.failed(queue, doing, error))).collect())
    }

    async fn ask_all(&self, requests: impl Iterator<Item = Cmd>) -> Result<Vec<Result<Value, RedisError>>, RedisError> {
        let mut pipeline = redis::pipe();
        pipeline.ignore_errors();
        for request in requests {
            pipeline.add_command(request);
        }
        if pipeline.is_empty() {
            return Ok(Vec::new());
        }
        pipeline.query_async(&mut self.inner.clone()).await
    }

    fn failed(&self, queue: &str, doing: &str, error: RedisError) -> Error {
        failed(&self.url, queue, doing, error)
    }

    /// Makes a request.
    pub async fn request(&self, doing: &str, queue: &str, request: Cmd) -> Result<Value, Error> {
        self.ask(request).await.map_err(|error| failed(&self.url, queue, doing, error))
    }

    /// The server's number for this connection, with which another one can wake it up. `None` if it does not tell.
    pub async fn number(&self) -> Option<i64> {
        let mut request = redis::cmd("CLIENT");
        request.arg("ID");
        value::number(self.ask(request).await.ok()?).ok()
    }

    /// Makes a request whose refusal is of interest.
    pub async fn ask(&self, request: Cmd) -> Result<Value, RedisError> {
        request.query_async(&mut self.inner.clone()).await
    }
}

/// What all requests were answered that were sent together: the library's error for that has no code.
fn first_of_many(error: RedisError) -> RedisError {
    let first = error.clone().into_server_errors().and_then(|errors| errors.first().map(|(_, error)| error.clone()));
    first.map_or(error, RedisError::from)
}

fn forgotten() -> RedisError {
    RedisError::from((ErrorKind::Server(ServerErrorKind::NoScript), "the script was not loaded"))
}
