use std::time::Duration;

use serde::Deserialize;
use ureq::{
    Agent, Body,
    config::RedirectAuthHeaders,
    http::{Response, StatusCode, header},
};

use super::{HubError, HubName, Settings, cache};

/// Asks the hub.
pub(super) struct Client<'a> {
    settings: &'a Settings,
    name: &'a HubName,
    agent: Agent,
}

/// What the hub says about a model.
pub(super) struct Listing {
    pub commit: String,
    pub files: Vec<String>,
}

/// What the hub says about a file.
#[derive(Clone, Debug)]
pub(super) struct FileInfo {
    /// Names the content; of large files it is the SHA-256.
    pub etag: String,
    pub bytes: u64,
}

/// Why a request gave nothing.
pub(super) enum RequestError {
    /// The hub could not be reached.
    Connection(ureq::Error),
    Hub(HubError),
}

impl From<HubError> for RequestError {
    fn from(error: HubError) -> Self {
        Self::Hub(error)
    }
}

impl<'a> Client<'a> {
    pub(super) fn new(settings: &'a Settings, name: &'a HubName) -> Self {
        let config = Agent::config_builder()
            .http_status_as_error(false)
            .user_agent(concat!("quest/", env!("CARGO_PKG_VERSION")))
            .timeout_connect(Some(Duration::from_secs(10)))
            .timeout_recv_response(Some(Duration::from_secs(60)))
            .timeout_per_read(Some(Duration::from_secs(60)))
            // Storage behind the hub has its own permission in the address.
            .redirect_auth_headers(RedirectAuthHeaders::SameHost)
            .max_redirects_will_error(false);
        Self {
            settings,
            name,
            agent: config.build().into(),
        }
    }

    /// The commit that the revision is now, and its files.
    pub(super) fn list(&self) -> Result<Listing, RequestError> {
        #[derive(Deserialize)]
        struct Model {
            sha: String,
            siblings: Vec<Sibling>,
        }
        #[derive(Deserialize)]
        struct Sibling {
            rfilename: String,
        }
        const MAX_BYTES: u64 = 64 << 20;
        let Settings { endpoint, .. } = self.settings;
        let HubName {
            repository,
            revision,
            ..
        } = self.name;
        let revision = revision.replace('/', "%2F");
        let url = format!("{endpoint}/api/models/{repository}/revision/{revision}");
        let mut response = self.get(&url, None)?;
        self.check(&url, &response)?;
        let answer = |found: String| HubError::Answer {
            url: url.clone(),
            expected: "a commit and its files as JSON",
            found,
        };
        let body = response.body_mut().with_config().limit(MAX_BYTES);
        let body = body.read_to_vec().map_err(RequestError::Connection)?;
        let model = serde_json::from_slice::<Model>(&body);
        let model = model.map_err(|error| answer(error.to_string()))?;
        let files = model.siblings.into_iter().map(|sibling| sibling.rfilename);
        let files = files.collect::<Vec<_>>();
        if let Some(outside) = files.iter().find(|file| !cache::is_inside(file)) {
            return Err(answer(format!("the file name `{outside}`")).into());
        }
        if !cache::is_plain(&model.sha) {
            return Err(answer(format!("the commit `{}`", model.sha)).into());
        }
        Ok(Listing {
            commit: model.sha,
            files,
        })
    }

    /// What a file of a commit is, without reading it.
    pub(super) fn info(&self, commit: &str, file: &str) -> Result<FileInfo, RequestError> {
        const MOST_REDIRECTS: usize = 5;
        let mut url = self.url(commit, file);
        for _ in 0..MOST_REDIRECTS {
            let request = self.agent.head(&url).config().max_redirects(0).build();
            let request = self.authorized(request.header(header::ACCEPT_ENCODING, "identity"));
            let response = request.call().map_err(RequestError::Connection)?;
            let text = |name: &str| {
                let value = response.headers().get(name)?.to_str().ok()?;
                Some(value.to_owned())
            };
            // The hub's own redirects are relative, as where a model has been renamed; one to
            // storage carries the content's name and size itself.
            let location = text("location").filter(|location| location.starts_with('/'));
            if let (true, Some(location)) = (response.status().is_redirection(), location) {
                url = format!("{}{location}", self.settings.endpoint);
                continue;
            }
            if !response.status().is_redirection() {
                self.check(&url, &response)?;
            }
            let etag = text("x-linked-etag").or_else(|| text("etag"));
            let etag = etag.map(|etag| etag.trim_start_matches("W/").trim_matches('"').to_owned());
            let bytes = text("x-linked-size").or_else(|| text("content-length"));
            let bytes = bytes.and_then(|bytes| bytes.parse().ok());
            return match (etag.filter(|etag| cache::is_plain(etag)), bytes) {
                (Some(etag), Some(bytes)) => Ok(FileInfo { etag, bytes }),
                found => Err(RequestError::Hub(HubError::Answer {
                    url,
                    expected: "an ETag and a size",
                    found: format!("{found:?}"),
                })),
            };
        }
        Err(RequestError::Connection(ureq::Error::TooManyRedirects))
    }

    /// The content of a file from a byte on. The status says whether it begins there.
    pub(super) fn content(
        &self,
        commit: &str,
        file: &str,
        start: u64,
    ) -> Result<Response<Body>, RequestError> {
        let url = self.url(commit, file);
        let response = self.get(&url, Some(start).filter(|&start| start > 0))?;
        self.check(&url, &response)?;
        Ok(response)
    }

    pub(super) fn url(&self, commit: &str, file: &str) -> String {
        let Settings { endpoint, .. } = self.settings;
        let file = file.replace('%', "%25").replace(' ', "%20");
        let file = file.replace('#', "%23").replace('?', "%3F");
        format!(
            "{endpoint}/{}/resolve/{commit}/{file}",
            self.name.repository
        )
    }

    fn get(&self, url: &str, start: Option<u64>) -> Result<Response<Body>, RequestError> {
        let mut request = self.authorized(self.agent.get(url));
        if let Some(start) = start {
            request = request.header(header::RANGE, format!("bytes={start}-"));
        }
        request.call().map_err(RequestError::Connection)
    }

    fn authorized<B>(&self, request: ureq::RequestBuilder<B>) -> ureq::RequestBuilder<B> {
        match &self.settings.token {
            Some(token) => request.header(header::AUTHORIZATION, format!("Bearer {token}")),
            None => request,
        }
    }

    /// Puts what the hub refuses into words.
    fn check(&self, url: &str, response: &Response<Body>) -> Result<(), HubError> {
        let status = response.status();
        if status.is_success() {
            return Ok(());
        }
        let code = response.headers().get("x-error-code");
        let code = code.and_then(|code| code.to_str().ok()).unwrap_or_default();
        let name = self.name.to_string();
        let page = format!("{}/{}", self.settings.endpoint, self.name.repository);
        let has_token = self.settings.token.is_some();
        Err(match (status, code) {
            (_, "GatedRepo") => HubError::Gated {
                name,
                url: page,
                found: match has_token {
                    true => "found a token without access",
                    false => "found no token",
                },
            },
            (_, "RevisionNotFound") => HubError::Revision {
                name,
                revision: self.name.revision.clone(),
            },
            // The hub does not tell strangers whether a private model exists.
            (StatusCode::UNAUTHORIZED, _) if has_token => HubError::Forbidden { name, url: page },
            (StatusCode::UNAUTHORIZED | StatusCode::NOT_FOUND, _) => {
                HubError::NotFound { name, url: page }
            }
            (StatusCode::FORBIDDEN, _) => HubError::Forbidden { name, url: page },
            _ => HubError::Status {
                url: url.to_owned(),
                status: status.as_u16(),
            },
        })
    }
}
