//! Carries the transaction from service to service: the xid in the header `assent-xid`, and the W3C trace context in
//! `traceparent`.
//!
//! A server puts [`ExtractLayer`] around its services, a client puts [`PropagateLayer`] around its channel. In between,
//! [`current`] says which transaction the code runs for. The closure given to
//! [`Transaction::run`](crate::client::NewTransaction::run) runs within its transaction's context.

use std::fmt;
use std::pin::Pin;
use std::task;

use assent_proto::TxId;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode, header};
use tower::{Layer, Service};

/// The header that carries the transaction.
pub const XID_HEADER: HeaderName = HeaderName::from_static("assent-xid");

/// The header that carries the W3C trace context.
pub const TRACEPARENT_HEADER: HeaderName = HeaderName::from_static("traceparent");

tokio::task_local! {
    static CURRENT: Context;
}

/// Which transaction, and which trace, the code works for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Context {
    xid: Option<TxId>,
    traceparent: Option<HeaderValue>,
}

/// The context of the running task, if it has one.
pub fn current() -> Option<Context> {
    CURRENT.try_with(Clone::clone).ok()
}

/// Runs a future within a context. A task that it spawns has none, unless it is given [`current`] with another `scope`.
pub async fn scope<F: Future>(context: Context, future: F) -> F::Output {
    CURRENT.scope(context, future).await
}

/// For a transaction begun here: within the trace of whoever began it.
pub(crate) fn for_transaction(xid: TxId) -> Context {
    Context { xid: Some(xid), traceparent: current().and_then(|context| context.traceparent) }
}

impl Context {
    /// For a transaction.
    pub fn new(xid: TxId) -> Context {
        Context { xid: Some(xid), traceparent: None }
    }

    /// The same with a W3C `traceparent`. One that is not in the form of level 1 is left out.
    #[must_use]
    pub fn with_traceparent(self, traceparent: &str) -> Context {
        let traceparent =
            is_traceparent(traceparent).then(|| HeaderValue::from_str(traceparent).ok()).flatten();
        Context { traceparent, ..self }
    }

    /// The transaction.
    pub fn xid(&self) -> Option<TxId> {
        self.xid
    }

    /// The trace context.
    pub fn traceparent(&self) -> Option<&str> {
        self.traceparent.as_ref()?.to_str().ok()
    }

    fn write(&self, headers: &mut HeaderMap) {
        if let Some(xid) = self.xid {
            let value =
                HeaderValue::from_str(&xid.to_string()).expect("an xid is hexadecimal digits and hyphens");
            headers.insert(XID_HEADER, value);
        }
        if let Some(traceparent) = &self.traceparent {
            headers.entry(TRACEPARENT_HEADER).or_insert_with(|| traceparent.clone());
        }
    }

    fn read(headers: &HeaderMap) -> Result<Option<Context>, BadXid> {
        let mut xids = headers.get_all(XID_HEADER).iter();
        let xid = match (xids.next(), xids.next()) {
            (None, _) => None,
            (Some(value), None) => {
                Some(value.to_str().ok().and_then(|text| text.parse().ok()).ok_or(BadXid)?)
            }
            (Some(_), Some(_)) => return Err(BadXid),
        };
        let traceparent = headers.get(TRACEPARENT_HEADER).and_then(|value| value.to_str().ok()).unwrap_or("");
        let context = Context { xid, traceparent: None }.with_traceparent(traceparent);
        Ok((context.xid.is_some() || context.traceparent.is_some()).then_some(context))
    }
}

/// The header `assent-xid` holds no transaction id, or is there twice.
struct BadXid;

const BAD_XID: &str = "the header assent-xid is not one transaction id";

/// For clients: adds the headers of the [`current`] context to every request. A `traceparent` that the request has
/// already stays.
#[derive(Clone, Copy, Debug, Default)]
pub struct PropagateLayer;

/// What [`PropagateLayer`] makes of a service.
#[derive(Clone, Debug)]
pub struct Propagate<S> {
    inner: S,
}

/// For servers: reads the headers, and runs the request within their [`Context`], which is also put into the request's
/// extensions.
///
/// A request whose `assent-xid` is no transaction id is refused: HTTP 400, or gRPC `INVALID_ARGUMENT`. Passing it on would
/// mean doing outside of any transaction what was asked for inside one. A `traceparent` that cannot be read is ignored.
#[derive(Clone, Copy, Debug, Default)]
pub struct ExtractLayer;

/// What [`ExtractLayer`] makes of a service.
#[derive(Clone, Debug)]
pub struct Extract<S> {
    inner: S,
}

impl<S> Layer<S> for PropagateLayer {
    type Service = Propagate<S>;

    fn layer(&self, inner: S) -> Propagate<S> {
        Propagate { inner }
    }
}

impl<S, B> Service<Request<B>> for Propagate<S>
where
    S: Service<Request<B>>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, cx: &mut task::Context<'_>) -> task::Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<B>) -> S::Future {
        if let Some(context) = current() {
            context.write(request.headers_mut());
        }
        self.inner.call(request)
    }
}

impl<S> Layer<S> for ExtractLayer {
    type Service = Extract<S>;

    fn layer(&self, inner: S) -> Extract<S> {
        Extract { inner }
    }
}

impl<S, B, R> Service<Request<B>> for Extract<S>
where
    S: Service<Request<B>, Response = Response<R>>,
    S::Future: Send + 'static,
    R: Default,
{
    type Response = Response<R>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Response<R>, S::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut task::Context<'_>) -> task::Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        match Context::read(request.headers()) {
            Ok(None) => Box::pin(self.inner.call(request)),
            Ok(Some(context)) => {
                request.extensions_mut().insert(context.clone());
                // The service may look at the context before it returns its future, too.
                let future = CURRENT.sync_scope(context.clone(), || self.inner.call(request));
                Box::pin(scope(context, future))
            }
            Err(BadXid) => {
                tracing::debug!("request refused: {BAD_XID}");
                let grpc = request
                    .headers()
                    .get(header::CONTENT_TYPE)
                    .is_some_and(|value| value.as_bytes().starts_with(b"application/grpc"));
                Box::pin(async move { Ok(if grpc { refusal_by_grpc() } else { refusal_by_http() }) })
            }
        }
    }
}

fn refusal_by_http<R: Default>() -> Response<R> {
    let mut response = Response::new(R::default());
    *response.status_mut() = StatusCode::BAD_REQUEST;
    response
}

fn refusal_by_grpc<R: Default>() -> Response<R> {
    tonic::Status::invalid_argument(BAD_XID).into_http()
}

/// Version, trace id, parent id and flags, as W3C Trace Context level 1 writes them.
fn is_traceparent(text: &str) -> bool {
    let form = "00-hhhhhhhhhhhhhhhhhhhhhhhhhhhhhhhh-hhhhhhhhhhhhhhhh-hh";
    text.len() == form.len()
        && text.bytes().zip(form.bytes()).all(|(byte, form)| match form {
            b'h' => matches!(byte, b'0'..=b'9' | b'a'..=b'f'),
            exact => byte == exact,
        })
}

impl fmt::Display for Context {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.xid {
            Some(xid) => xid.fmt(f),
            None => f.write_str("no transaction"),
        }
    }
}
