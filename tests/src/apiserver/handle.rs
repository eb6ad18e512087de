//! One request on the state: what the path and method ask for, and the answer.

use std::sync::Arc;

use http::Method;
use serde_json::{Value, json};

use super::access::{self, Attempt};
use super::apply;
use super::discovery;
use super::failure::Failure;
use super::fields::Author;
use super::kinds::Kind;
use super::lifecycle::Deleted;
use super::lists::Shape;
use super::object::{key, remove, text};
use super::patch;
use super::path::{Query, ResourcePath, Target};
use super::reads::Watch;
use super::selector::Selector;
use super::store::{Key, Object};
use super::tokens::Caller;
use super::view::View;
use super::world::World;
use super::writes::{Write, outdated, strip_type};

/// A request, read completely.
#[derive(Debug)]
pub(super) struct Request {
    pub(super) method: Method,
    pub(super) target: Target,
    pub(super) query: Query,
    pub(super) accept: String,
    pub(super) content_type: String,
    pub(super) user_agent: String,
    pub(super) body: Vec<u8>,
    /// Whose token it is; none where no token is needed.
    pub(super) caller: Option<Caller>,
}

/// What is answered when nothing is wrong.
#[derive(Debug)]
pub(super) enum Answer {
    /// A status code and a JSON text.
    Json(u16, String),
    /// A plain text.
    Text(&'static str),
    /// A watch to be run.
    Watch(Box<Watch>),
}

impl Request {
    /// The verb and resource as audit logs name them: `list pods`, `update leases/status`.
    pub(super) fn verb(&self) -> Option<(&'static str, String)> {
        let Target::Resource(path) = &self.target else {
            return None;
        };
        let watch = self
            .query
            .get("watch")
            .is_some_and(|word| word != "false" && word != "0");
        let verb = match (&self.method, path.name.is_some()) {
            (&Method::GET, _) if watch => "watch",
            (&Method::GET, true) => "get",
            (&Method::GET, false) => "list",
            (&Method::POST, _) => "create",
            (&Method::PUT, _) => "update",
            (&Method::PATCH, _) => "patch",
            (&Method::DELETE, true) => "delete",
            (&Method::DELETE, false) => "deletecollection",
            _ => return None,
        };
        let mut resource = super::kinds::resource_name(&path.group, &path.plural);
        if let Some(subresource) = &path.subresource {
            resource = format!("{resource}/{subresource}");
        }
        Some((verb, resource))
    }

    /// Whether the caller may do this, or this with another verb.
    fn may(&self, world: &World, verb: Option<&str>) -> Result<(), Failure> {
        let (Target::Resource(path), Some(caller)) = (&self.target, &self.caller) else {
            return Ok(());
        };
        let own = self.verb().map_or("", |(own, _)| own);
        let fields = self.query.get("fieldSelector").unwrap_or_default();
        let selected = fields
            .split(',')
            .find_map(|field| field.strip_prefix("metadata.name="));
        let attempt = Attempt {
            verb: verb.unwrap_or(own),
            path,
            name: path.name.as_deref().or(selected),
        };
        access::check(&world.store, caller, attempt)
    }

    fn json(&self) -> Result<Value, Failure> {
        if ["protobuf", "cbor"]
            .iter()
            .any(|form| self.content_type.contains(form))
        {
            return Err(Failure::new(
                415,
                "UnsupportedMediaType",
                format!("the fixture reads JSON, not {}", self.content_type),
            ));
        }
        serde_json::from_slice(&self.body)
            .map_err(|error| Failure::bad_request(format!("the body is not JSON: {error}")))
    }

    /// The body of a deletion may be missing.
    fn delete_options(&self) -> Result<Value, Failure> {
        let mut options = if self.body.is_empty() {
            json!({})
        } else {
            self.json()?
        };
        if let Some(grace) = self.query.number("gracePeriodSeconds") {
            options["gracePeriodSeconds"] = json!(grace);
        }
        if self.query.get("dryRun").is_some() {
            options["dryRun"] = json!(["All"]);
        }
        Ok(options)
    }

    fn manager(&self) -> &str {
        let agent = self.user_agent.split('/').next().unwrap_or_default();
        let agent = if agent.is_empty() { "unknown" } else { agent };
        self.query.get("fieldManager").unwrap_or(agent)
    }
}

/// Does what the request asks for.
pub(super) fn handle(world: &mut World, request: &Request) -> Result<Answer, Failure> {
    let get = request.method == Method::GET;
    match &request.target {
        Target::Health => Ok(Answer::Text("ok")),
        Target::Resource(path) => {
            // Everybody may ask what they themselves may do.
            if path.plural != "selfsubjectaccessreviews" {
                request.may(world, None)?;
            }
            resource(world, request, path)
        }
        _ if !get => Err(not_allowed()),
        Target::Version => Ok(ok(&discovery::version())),
        Target::CoreVersions => Ok(ok(&discovery::core_versions())),
        Target::Groups => Ok(ok(&discovery::groups(&world.kinds))),
        Target::Group(group) => discovery::group(&world.kinds, group).map(|found| ok(&found)),
        Target::GroupVersion(group, version) => {
            discovery::resources(&world.kinds, group, version).map(|found| ok(&found))
        }
        Target::OpenApi(None) => Ok(ok(&discovery::openapi(&world.kinds))),
        Target::OpenApi(Some(path)) => {
            discovery::openapi_document(&world.kinds, path).map(|found| ok(&found))
        }
        Target::Fixture(_) | Target::Unknown => Err(Failure::no_such_path()),
    }
}

fn ok(value: &Value) -> Answer {
    Answer::Json(200, value.to_string())
}

fn not_allowed() -> Failure {
    Failure::new(
        405,
        "MethodNotAllowed",
        "the server does not allow this method on the requested resource",
    )
}

fn resource(world: &mut World, request: &Request, path: &ResourcePath) -> Result<Answer, Failure> {
    if let Some(answer) = review(world, request, path)? {
        return Ok(answer);
    }
    let kind = world
        .kinds
        .find(&path.group, &path.plural)
        .filter(|kind| kind.versions.contains(&path.version))
        .filter(|kind| kind.namespaced || path.namespace.is_none())
        .map(Arc::clone)
        .ok_or_else(Failure::no_such_path)?;
    let call = Call {
        request,
        path,
        view: View::new(&kind, &path.version, &request.accept),
        kind,
    };
    match &path.name {
        Some(name) => {
            let key = key(&call.kind, path.namespace.as_deref(), name);
            call.on_object(world, &key)
        }
        None => call.on_collection(world),
    }
}

/// The resources that are questions and never stored.
fn review(
    world: &mut World,
    request: &Request,
    path: &ResourcePath,
) -> Result<Option<Answer>, Failure> {
    let now = world.now();
    let created = |value: &Value| Some(Answer::Json(201, value.to_string()));
    match (path.group.as_str(), path.plural.as_str()) {
        ("authentication.k8s.io", "tokenreviews") if request.method == Method::POST => {
            let answer = world.tokens.review(&world.store, now, &request.json()?);
            Ok(created(&answer))
        }
        ("authorization.k8s.io", "selfsubjectaccessreviews") if request.method == Method::POST => {
            let mut answer = request.json()?;
            answer["status"] = json!({"allowed": allowed(world, request, &answer["spec"])});
            Ok(created(&answer))
        }
        ("", "serviceaccounts")
            if path.subresource.as_deref() == Some("token") && request.method == Method::POST =>
        {
            let account = (
                path.namespace.clone().unwrap_or_default(),
                path.name.clone().unwrap_or_default(),
            );
            let body = request.json()?;
            let answer = world.tokens.request(&world.store, now, &account, &body)?;
            Ok(created(&answer))
        }
        _ => Ok(None),
    }
}

/// Whether the caller may do what a SelfSubjectAccessReview asks about.
fn allowed(world: &World, request: &Request, spec: &Value) -> bool {
    let asked = &spec["resourceAttributes"];
    let word = |field: &str| {
        let found = text(asked, field);
        (!found.is_empty()).then(|| found.to_owned())
    };
    let path = ResourcePath {
        group: word("/group").unwrap_or_default(),
        version: word("/version").unwrap_or_default(),
        namespace: word("/namespace"),
        plural: word("/resource").unwrap_or_default(),
        name: word("/name"),
        subresource: word("/subresource"),
    };
    let attempt = Attempt {
        verb: text(asked, "/verb"),
        name: path.name.as_deref(),
        path: &path,
    };
    match &request.caller {
        Some(Caller::Account(namespace, account)) => {
            access::allows(&world.store, namespace, account, attempt)
        }
        Some(Caller::Admin) => true,
        None => false,
    }
}

/// A request on a known resource.
struct Call<'a> {
    request: &'a Request,
    path: &'a ResourcePath,
    kind: Arc<Kind>,
    view: View,
}

impl Call<'_> {
    fn write(&self) -> Write<'_> {
        Write {
            version: &self.path.version,
            manager: Some(self.request.manager()),
            subresource: match self.path.subresource.as_deref() {
                Some("status") => "status",
                _ => "",
            },
            dry_run: self.request.query.get("dryRun").is_some(),
            raw: false,
        }
    }

    fn shown(&self, code: u16, object: &Object) -> Answer {
        Answer::Json(code, self.view.object(object))
    }

    fn selector(&self, more: Option<&str>) -> Result<Selector, Failure> {
        let query = &self.request.query;
        Selector::new(
            &self.kind,
            self.path.namespace.as_deref(),
            query.get("labelSelector"),
            more.or_else(|| query.get("fieldSelector")),
        )
    }

    fn on_collection(&self, world: &mut World) -> Result<Answer, Failure> {
        match self.request.method {
            Method::GET => self.list_or_watch(world, None),
            Method::POST => {
                if self.kind.namespaced && self.path.namespace.is_none() {
                    return Err(Failure::bad_request(
                        "an empty namespace may not be set during creation",
                    ));
                }
                let namespace = self.path.namespace.as_deref();
                let body = self.request.json()?;
                let object = world.create(&self.kind, namespace, body, self.write())?;
                Ok(self.shown(201, &object))
            }
            Method::DELETE => {
                let options = self.request.delete_options()?;
                let selector = self.selector(None)?;
                let page = world.list(&self.view, &selector, &Query::default())?;
                for object in &page.items {
                    let namespace = object["metadata"]["namespace"].as_str();
                    let key = key(&self.kind, namespace, text(object, "/metadata/name"));
                    world.delete(&self.kind, &key, &options)?;
                }
                Ok(Answer::Json(200, self.view.list(&page)))
            }
            _ => Err(not_allowed()),
        }
    }

    fn list_or_watch(&self, world: &World, fields: Option<&str>) -> Result<Answer, Failure> {
        let selector = self.selector(fields)?;
        let query = &self.request.query;
        if self.request.verb().is_some_and(|(verb, _)| verb == "watch") {
            let watch = world.start_watch(self.view.clone(), selector, query)?;
            return Ok(Answer::Watch(Box::new(watch)));
        }
        let page = world.list(&self.view, &selector, query)?;
        Ok(Answer::Json(200, self.view.list(&page)))
    }

    fn on_object(&self, world: &mut World, key: &Key) -> Result<Answer, Failure> {
        let subresource = self.path.subresource.as_deref().unwrap_or_default();
        let known = match subresource {
            "" => true,
            "status" => self.kind.status,
            "finalize" => self.kind.is("", "namespaces"),
            "eviction" => self.kind.is("", "pods"),
            _ => false,
        };
        if !known {
            return Err(Failure::no_such_path());
        }
        match self.request.method {
            Method::POST if subresource == "eviction" => {
                let body = self.request.json()?;
                world.delete(&self.kind, key, &body["deleteOptions"])?;
                Ok(Answer::Json(201, success(&self.kind, key, None)))
            }
            Method::GET if self.request.verb().is_some_and(|(verb, _)| verb == "watch") => {
                self.list_or_watch(world, Some(&format!("metadata.name={}", key.1)))
            }
            Method::GET => world
                .existing(&self.kind, key)
                .map(|object| self.shown(200, &object)),
            Method::PUT => {
                let body = self.request.json()?;
                let object = world.update(&self.kind, key, body, self.write())?;
                Ok(self.shown(200, &object))
            }
            Method::PATCH => self.patch(world, key),
            Method::DELETE if subresource.is_empty() => {
                let options = self.request.delete_options()?;
                match world.delete(&self.kind, key, &options)? {
                    Deleted::Gone(object) => {
                        Ok(Answer::Json(200, success(&self.kind, key, Some(&object))))
                    }
                    Deleted::Pending(object) => Ok(self.shown(200, &object)),
                }
            }
            _ => Err(not_allowed()),
        }
    }

    fn patch(&self, world: &mut World, key: &Key) -> Result<Answer, Failure> {
        let form = self
            .request
            .content_type
            .split(';')
            .next()
            .unwrap_or_default();
        if form == "application/apply-patch+yaml" {
            return self.apply(world, key);
        }
        let patch = self.request.json()?;
        let old = world.existing(&self.kind, key)?;
        let mut new = Value::clone(&old);
        new["kind"] = json!(self.kind.kind);
        new["apiVersion"] = json!(self.kind.api_version(&self.path.version));
        match form {
            "application/json-patch+json" => patch::json(&mut new, patch)?,
            "application/merge-patch+json" => patch::merge(&mut new, &patch),
            "application/strategic-merge-patch+json" if self.kind.custom.is_none() => {
                patch::strategic(Shape::of(&self.kind), &mut new, &patch);
            }
            other => {
                return Err(Failure::new(
                    415,
                    "UnsupportedMediaType",
                    format!("the body of the request was in an unknown format: {other}"),
                ));
            }
        }
        let version = text(&new, "/metadata/resourceVersion");
        if version != text(&old, "/metadata/resourceVersion") {
            return Err(outdated(&self.kind.resource(), &key.1));
        }
        strip_type(&self.kind, &mut new, self.write())?;
        let object = world.replace(&self.kind, key, &old, new, self.write())?;
        Ok(self.shown(200, &object))
    }

    fn apply(&self, world: &mut World, key: &Key) -> Result<Answer, Failure> {
        let Some(manager) = self.request.query.get("fieldManager") else {
            return Err(Failure::bad_request(
                "PatchOptions.meta.k8s.io \"\" is invalid: fieldManager: Required value: is \
                 required for apply patch",
            ));
        };
        let mut wanted: Value = serde_saphyr::from_slice(&self.request.body)
            .map_err(|error| Failure::bad_request(format!("error decoding YAML: {error}")))?;
        // Apply records who owns what by itself.
        let write = Write {
            manager: None,
            ..self.write()
        };
        strip_type(&self.kind, &mut wanted, write)?;
        if !wanted["metadata"]["managedFields"].is_null() {
            return Err(Failure::bad_request(
                "metadata.managedFields must be nil to use apply",
            ));
        }
        let name = text(&wanted, "/metadata/name");
        if !name.is_empty() && name != key.1 {
            return Err(Failure::bad_request(format!(
                "the name of the object ({name}) does not match the name on the URL ({})",
                key.1
            )));
        }
        wanted["metadata"]["name"] = json!(key.1);
        self.keep_part(&mut wanted, write.subresource);
        let old = world.existing(&self.kind, key).ok();
        let version = text(&wanted, "/metadata/resourceVersion");
        let present = old
            .as_ref()
            .map_or("", |old| text(old, "/metadata/resourceVersion"));
        if !version.is_empty() && version != present {
            return Err(outdated(&self.kind.resource(), &key.1));
        }
        let author = Author {
            manager,
            operation: "Apply",
            subresource: write.subresource,
            api_version: &self.kind.api_version(&self.path.version),
            time: &world.timestamp(),
        };
        let force = self.request.query.flag("force") && self.request.query.get("force").is_some();
        let empty = json!({"metadata": {}});
        let live = old.as_deref().unwrap_or(&empty);
        let result = apply::apply(&self.kind, live, &wanted, author, force)?;
        match old {
            Some(old) => {
                let object = world.replace(&self.kind, key, &old, result, write)?;
                Ok(self.shown(200, &object))
            }
            None if write.subresource.is_empty() => {
                self.request.may(world, Some("create"))?;
                let namespace = self.path.namespace.as_deref();
                let object = world.create(&self.kind, namespace, result, write)?;
                Ok(self.shown(201, &object))
            }
            None => Err(Failure::not_found(&self.kind.resource(), &key.1)),
        }
    }

    /// What the other subresource is for is ignored in an apply, and not owned.
    fn keep_part(&self, wanted: &mut Value, subresource: &str) {
        if !self.kind.status {
            return;
        }
        if subresource != "status" {
            remove(wanted, "status");
            return;
        }
        let metadata = if self.kind.custom.is_none() {
            wanted["metadata"].clone()
        } else {
            json!({"name": wanted["metadata"]["name"]})
        };
        let status = wanted["status"].take();
        *wanted = json!({"metadata": metadata});
        if !status.is_null() {
            wanted["status"] = status;
        }
    }
}

fn success(kind: &Kind, key: &Key, object: Option<&Object>) -> String {
    let mut details = json!({"name": key.1, "kind": kind.plural});
    if !kind.group.is_empty() {
        details["group"] = json!(kind.group);
    }
    if let Some(object) = object {
        details["uid"] = object["metadata"]["uid"].clone();
    }
    json!({
        "kind": "Status",
        "apiVersion": "v1",
        "metadata": {},
        "status": "Success",
        "details": details,
    })
    .to_string()
}
