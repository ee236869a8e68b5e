//! The tower layers, in front of each other and on the wire.

use std::convert::Infallible;

use assent_sdk::context::{self, Context, ExtractLayer, PropagateLayer};
use http::{Request, Response, StatusCode};
use tower::{Layer as _, Service as _, service_fn};

use crate::shop::tx;

const TRACEPARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

/// What a service behind the server's layer sees of a request.
async fn seen(request: Request<()>) -> Response<String> {
    let inner = service_fn(async |request: Request<()>| {
        let in_extensions = request.extensions().get::<Context>().cloned();
        assert_eq!(in_extensions, context::current());
        let text = match context::current() {
            None => "none".to_owned(),
            Some(context) => format!("{context} {}", context.traceparent().unwrap_or("untraced")),
        };
        Ok::<_, Infallible>(Response::new(text))
    });
    ExtractLayer.layer(inner).call(request).await.unwrap()
}

fn request(headers: &[(&str, &str)]) -> Request<()> {
    let mut request = Request::new(());
    for (name, value) in headers {
        let name: http::HeaderName = name.parse().unwrap();
        request.headers_mut().append(name, value.parse().unwrap());
    }
    request
}

#[tokio::test]
async fn context_travels_from_client_to_server() {
    let mut client = PropagateLayer
        .layer(service_fn(async |request: Request<()>| Ok::<_, Infallible>(seen(request).await)));
    let context = Context::new(tx(1)).with_traceparent(TRACEPARENT);
    let arrived = context::scope(context, async { client.call(Request::new(())).await }).await;
    assert_eq!(*arrived.unwrap().body(), format!("{} {TRACEPARENT}", tx(1)));
}

#[tokio::test]
async fn request_outside_of_a_transaction_is_left_alone() {
    assert_eq!(seen(request(&[])).await.body(), "none");
    assert_eq!(
        *seen(request(&[("traceparent", TRACEPARENT)])).await.body(),
        format!("no transaction {TRACEPARENT}")
    );
    assert_eq!(context::current(), None);
}

#[tokio::test]
async fn hostile_xid_is_refused() {
    let good = tx(1).to_string();
    let long = "0".repeat(10_000);
    for xid in ["", "order-1", " ", "00000000-0000-4000-8000-000000000000", &long, &format!("{good} ")[..37]]
    {
        let response = seen(request(&[("assent-xid", xid)])).await;
        assert_eq!(response.status(), StatusCode::BAD_REQUEST, "{xid:?}");
        assert_eq!(response.body(), "");
    }
    let twice = seen(request(&[("assent-xid", &good), ("assent-xid", &good)])).await;
    assert_eq!(twice.status(), StatusCode::BAD_REQUEST);

    let grpc = request(&[("assent-xid", "order-1"), ("content-type", "application/grpc+proto")]);
    let response = seen(grpc).await;
    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!(response.headers()["grpc-status"], "3");
}

#[tokio::test]
async fn malformed_traceparent_is_left_out() {
    let xid = tx(1).to_string();
    for bad in ["", "x", &TRACEPARENT.to_uppercase(), &TRACEPARENT.replace('-', "_"), "00-é"] {
        let context = Context::new(tx(1)).with_traceparent(bad);
        assert_eq!(context.traceparent(), None, "{bad:?}");
    }
    let response = seen(request(&[("assent-xid", &xid), ("traceparent", "00-zz")])).await;
    assert_eq!(*response.body(), format!("{xid} untraced"));
}

#[tokio::test]
async fn traceparent_of_the_request_itself_stays() {
    let own = "00-11111111111111111111111111111111-2222222222222222-00";
    let mut client = PropagateLayer
        .layer(service_fn(async |request: Request<()>| Ok::<_, Infallible>(seen(request).await)));
    let context = Context::new(tx(1)).with_traceparent(TRACEPARENT);
    let call = context::scope(context, async { client.call(request(&[("traceparent", own)])).await });
    assert_eq!(*call.await.unwrap().body(), format!("{} {own}", tx(1)));
}
