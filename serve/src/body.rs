//! Bodies: those of requests whole, those of streams as they come.

use std::{
    convert::Infallible,
    pin::Pin,
    task::{Context, Poll},
};

use axum::{
    body::{Body, Bytes, to_bytes},
    extract::Request,
    http::{StatusCode, header},
};
use http_body::Frame;
use tokio::{sync::mpsc, time::timeout};

use crate::{config::Limits, error::ApiError};

/// The body of a request with JSON.
pub(crate) async fn read(request: Request, limits: &Limits) -> Result<Bytes, ApiError> {
    let headers = request.headers();
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
    let kind = text(header::CONTENT_TYPE).unwrap_or_default();
    let kind = kind.split(';').next().unwrap_or_default().trim();
    // A page of another site can send any other kind without being asked by the browser.
    if !kind.eq_ignore_ascii_case("application/json") {
        let found = match kind {
            "" => "none",
            kind => kind,
        };
        let message = format!("content-type: expected application/json, found {found}");
        let error = ApiError::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, message);
        return Err(error.with_code("unsupported_media_type"));
    }
    let most = limits.body_bytes;
    let too_large = || {
        let message = format!("body: expected at most {most} bytes, found more");
        ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, message).with_code("body_too_large")
    };
    let length = text(header::CONTENT_LENGTH).and_then(|length| length.parse::<usize>().ok());
    if length.is_some_and(|length| length > most) {
        return Err(too_large());
    }
    let body = timeout(limits.read_time, to_bytes(request.into_body(), most)).await;
    let Ok(body) = body else {
        let seconds = limits.read_time.as_secs();
        let message = format!("body: expected all of it within {seconds} s");
        return Err(ApiError::new(StatusCode::REQUEST_TIMEOUT, message).with_code("body_timeout"));
    };
    body.map_err(|error| {
        let mut cause: Option<&dyn std::error::Error> = Some(&error);
        while let Some(error) = cause {
            if error.is::<http_body_util::LengthLimitError>() {
                return too_large();
            }
            cause = error.source();
        }
        ApiError::new(StatusCode::BAD_REQUEST, format!("body: {error}"))
    })
}

/// A body whose parts come from a channel; the sender hears when nobody reads any more.
pub(crate) fn channel() -> (mpsc::Sender<Bytes>, Body) {
    let (sender, receiver) = mpsc::channel(32);
    (sender, Body::new(Parts { receiver }))
}

struct Parts {
    receiver: mpsc::Receiver<Bytes>,
}

impl http_body::Body for Parts {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let next = self.receiver.poll_recv(context);
        next.map(|bytes| bytes.map(|bytes| Ok(Frame::data(bytes))))
    }
}
