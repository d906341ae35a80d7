//! `include`: other files, merged below the file that names them; nested ones first.

use super::diagnostic::{Diagnostics, Sources};
use super::extends::deep_merge;
use super::fetch::{Fetch, FetchError, Location, Repository};
use super::inputs::{self, Given};
use super::load::{self, MAX_FILE_BYTES, MAX_NODES, Reported, TOO_BIG};
use super::suggest;
use super::tree::{Map, Node, Span, Value, shorten};
use super::validate::{self, Mode};
use base64::Engine as _;
use sha2::{Digest as _, Sha256};
use slipway_spec::expand::{Undefined, expand_for_server};
use slipway_spec::glob::RubyGlob;
use std::collections::BTreeSet;
use std::sync::Arc;

/// Includes of one configuration, repeats counted; GitLab's limit.
pub const MAX_INCLUDES: usize = 150;
/// Files of one configuration together, in bytes. Ours; GitLab's instance setting allows 300 MB.
pub const MAX_TOTAL_BYTES: usize = 32 * 1024 * 1024;

/// The keys that say where a file is.
const PLACES: [&str; 5] = ["local", "project", "remote", "template", "component"];

/// Where an included file's own relative names belong.
#[derive(Clone, Debug, Default)]
struct Home {
    repository: Option<Repository>,
    /// The files on the way here, for a loop.
    chain: Vec<String>,
}

/// Reads a configuration and all it includes.
pub(super) struct Reader<'a> {
    pub(super) fetch: &'a dyn Fetch,
    /// Values that `include` may use: no variables of the configuration are among them. The second is true when it is
    /// masked.
    pub(super) lookup: &'a dyn Fn(&str) -> Option<(&'a str, bool)>,
    /// Decides `include:rules`: in or out.
    pub(super) rules: &'a dyn Fn(&Node, &mut Diagnostics) -> bool,
    pub(super) sources: Sources,
    pub(super) diagnostics: Diagnostics,
    /// Pairs that merging has made.
    pub(super) spent: u64,
    pub(super) count: usize,
    pub(super) bytes: usize,
    /// Values of the files read so far.
    pub(super) values: u64,
}

impl Reader<'_> {
    /// The whole configuration of a root file: headers done, inputs filled in, includes merged, `include` gone.
    pub(super) fn root(&mut self, name: &str, text: &str, given: &Given) -> Result<Map, Reported> {
        if text.trim().is_empty() {
            let file = self.sources.add(name, text);
            self.diagnostics
                .error(Span { file, ..Span::default() }, "", "Please provide content of .gitlab-ci.yml")
                .hint("the file is empty");
            return Err(Reported);
        }
        let node = self.content(name, text, given, None, &Home { repository: None, chain: vec![name.to_string()] })?;
        match node.value {
            Value::Map(map) => Ok(Map::clone(&map)),
            _ => {
                self.diagnostics
                    .error(node.span, "", "Invalid configuration format")
                    .hint(format!("a mapping of keywords and jobs was expected, found {}", node.describe()));
                Err(Reported)
            }
        }
    }

    /// One file's content with its includes merged in. `at` is where it was included.
    fn content(
        &mut self,
        name: &str,
        text: &str,
        given: &Given,
        at: Option<Span>,
        home: &Home,
    ) -> Result<Node, Reported> {
        self.bytes += text.len();
        if text.len() > MAX_FILE_BYTES || self.bytes > MAX_TOTAL_BYTES {
            let file = self.sources.add(name, "");
            let hint = format!("{name} has {} bytes; one file may have {MAX_FILE_BYTES}", text.len());
            let span = at.unwrap_or(Span { file, ..Span::default() });
            self.diagnostics.error(span, "", TOO_BIG).hint(hint);
            return Err(Reported);
        }
        let documents = load::documents(text);
        let file = self.sources.add(name, text);
        let first = load::load_within(&documents.first, file, &mut self.values, &mut self.diagnostics);
        let is_header = documents.second.is_some() && first.as_ref().is_ok_and(|n| n.get("spec").is_some());
        let node = if is_header {
            let header = first?;
            if let Some(line) = documents.third_line {
                let span = Span { file, line, column: 1, length: 3 };
                let error = self.diagnostics.error(span, "", "The parsed YAML has too many documents");
                error.hint("a file has a header (`spec:`) and one document of content");
                return Err(Reported);
            }
            let content = documents.second.unwrap_or_default();
            let content = self.fill_in(&header, &content, name, given, at, home)?;
            let file = self.sources.add(name, content.as_str());
            load::load_within(&content, file, &mut self.values, &mut self.diagnostics)?
        } else {
            if documents.second.is_some() && first.is_ok() {
                let span = Span { file, line: 1, column: 1, length: 0 };
                self.diagnostics
                    .warn(span, "", format!("{name}: only the first of its documents is read"))
                    .hint("a second document is the content only when the first is a header with `spec:`");
            }
            if !given.values.is_empty() {
                let text = "Given inputs not defined in the `spec` section of the included configuration file";
                self.diagnostics.error(given.span, "", text).hint(format!("{name} has no `spec:inputs`"));
                return Err(Reported);
            }
            first?
        };
        self.with_includes(node, home)
    }

    /// The header is checked, the inputs' values found, and put into the content's text.
    fn fill_in(
        &mut self,
        header: &Node,
        content: &str,
        name: &str,
        given: &Given,
        at: Option<Span>,
        home: &Home,
    ) -> Result<String, Reported> {
        let Some(header) = header.as_map() else { return Ok(content.to_string()) };
        validate::header(header, Mode::Full, &mut self.diagnostics)?;
        let Some(spec) = header.get("spec").and_then(Node::as_map) else { return Ok(content.to_string()) };
        let mut declared = Map::new();
        for item in items(spec.get("include")) {
            let place = self.place(item, home)?;
            let (fetched, label) = self.read(&place, item.span)?;
            let file = self.sources.add(label, fetched.text.as_str());
            let node = load::load_within(
                &load::documents(&fetched.text).first,
                file,
                &mut self.values,
                &mut self.diagnostics,
            )?;
            if let Some(map) = node.as_map() {
                validate::included_inputs(map, &mut self.diagnostics)?;
            }
            for (key, entry) in node.get("inputs").and_then(Node::as_map).iter().flat_map(|m| m.iter()) {
                declared.insert(key.clone(), entry.clone());
            }
        }
        for (key, entry) in spec.get("inputs").and_then(Node::as_map).iter().flat_map(|m| m.iter()) {
            declared.insert(key.clone(), entry.clone());
        }
        let at = at.unwrap_or_default();
        let values = inputs::resolve(&declared, given, at, &mut self.diagnostics)?;
        let component = inputs::Component { spec, address: home.chain.last().map_or("", String::as_str) };
        inputs::interpolate(content, name, &values, &component, self.lookup, &mut self.sources, &mut self.diagnostics)
    }

    /// Replaces `include` by what it names.
    fn with_includes(&mut self, node: Node, home: &Home) -> Result<Node, Reported> {
        let Value::Map(map) = &node.value else { return Ok(node) };
        if !map.contains("include") {
            return Ok(node);
        }
        let mut own = Map::clone(map);
        let Some(entry) = own.remove("include") else { return Ok(node) };
        let own = Node::new(Value::Map(Arc::new(own)), node.span);
        let mut below = Node::new(Value::Map(Arc::new(Map::new())), node.span);
        let mut failed = false;
        for item in items(Some(&entry.value)) {
            match self.item(item, home) {
                Ok(files) => {
                    for file in files {
                        below = deep_merge(&below, &file, &mut self.spent);
                    }
                }
                Err(Reported) => failed = true,
            }
            if self.spent > MAX_NODES * 4 {
                self.diagnostics.error(entry.key_span, "include", TOO_BIG).hint("the included files make it so");
                return Err(Reported);
            }
            if self.count > MAX_INCLUDES {
                return Err(Reported);
            }
        }
        if failed {
            return Err(Reported);
        }
        Ok(deep_merge(&below, &own, &mut self.spent))
    }

    /// The files of one item of `include`.
    fn item(&mut self, item: &Node, home: &Home) -> Result<Vec<Node>, Reported> {
        let rules = item.get("rules").filter(|r| !r.is_null());
        let places = self.places(item, home)?;
        if let Some(rules) = rules
            && !(self.rules)(rules, &mut self.diagnostics)
        {
            return Ok(Vec::new());
        }
        let given = self.given(item)?;
        let mut files = Vec::new();
        for place in places {
            self.count += 1;
            if self.count > MAX_INCLUDES {
                let message = format!("Maximum of {MAX_INCLUDES} nested includes are allowed!");
                self.diagnostics.error(item.span, "include", message);
                return Err(Reported);
            }
            let (fetched, label) = self.read(&place, item.span)?;
            self.integrity(item, &fetched.text, &label)?;
            let again = format!("{label} {}", given.values.iter().map(|(k, v)| format!("{k}={v}")).collect::<String>());
            if home.chain.contains(&again) || home.chain.first() == Some(&label) && home.repository.is_none() {
                let way = home.chain.iter().map(|c| c.trim_end()).collect::<Vec<_>>().join(" -> ");
                self.diagnostics
                    .error(item.span, "include", format!("{label}: circular include"))
                    .hint(format!("{way} -> {label}"));
                return Err(Reported);
            }
            let repository = fetched.repository.clone().or_else(|| match &place {
                Location::File { repository, .. } => repository.clone(),
                _ => home.repository.clone(),
            });
            let mut chain = home.chain.clone();
            chain.push(again);
            if fetched.text.trim().is_empty() {
                self.diagnostics.error(item.span, "include", format!("{} is empty!", said(&place, &label)));
                return Err(Reported);
            }
            let node = self.content(&label, &fetched.text, &given, Some(item.span), &Home { repository, chain })?;
            match node.value {
                Value::Map(_) => files.push(node),
                _ => {
                    let message = format!("Included file `{label}` does not have valid YAML syntax!");
                    let hint = format!("a mapping was expected, found {}", node.describe());
                    self.diagnostics.error(item.span, "include", message).hint(hint);
                    return Err(Reported);
                }
            }
        }
        Ok(files)
    }

    /// `integrity: sha256-…`: the file is the one that was meant.
    fn integrity(&mut self, item: &Node, text: &str, label: &str) -> Result<(), Reported> {
        let Some(node) = item.get("integrity").filter(|n| !n.is_null()) else { return Ok(()) };
        let wanted = node.as_str().and_then(|t| t.strip_prefix("sha256-")).unwrap_or_default();
        let found = base64::engine::general_purpose::STANDARD.encode(Sha256::digest(text));
        if wanted == found {
            return Ok(());
        }
        self.diagnostics
            .error(node.span, "include:integrity", format!("{label}: the file does not match its integrity hash"))
            .hint(format!("it has sha256-{found}"));
        Err(Reported)
    }

    fn given(&mut self, item: &Node) -> Result<Given, Reported> {
        let Some(node) = item.get("inputs").filter(|n| !n.is_null()) else { return Ok(Given::default()) };
        let Some(map) = node.as_map() else {
            self.diagnostics.error(node.span, "include:inputs", "include:inputs config should be a hash");
            return Err(Reported);
        };
        let mut values = Vec::new();
        for (key, entry) in map.iter() {
            let value = match entry.value.as_str() {
                Some(text) if text.contains('$') => self.expand(text).into(),
                _ => entry.value.to_json(),
            };
            values.push((key.to_string(), value));
        }
        Ok(Given { values, span: node.span })
    }

    fn expand(&self, text: &str) -> String {
        expand_for_server(text, Undefined::Remove, |name| (self.lookup)(name).map(|(value, _)| value))
    }

    /// Where an item's files are, wildcards resolved.
    fn places(&mut self, item: &Node, home: &Home) -> Result<Vec<Location>, Reported> {
        if let Some(files) = item.get("file").and_then(Node::as_seq) {
            let Some(Location::File { repository, .. }) = self.place(item, home).ok() else { return Err(Reported) };
            let named = files.iter().filter_map(Node::as_str);
            return Ok(named
                .map(|f| Location::File { repository: repository.clone(), path: root_path(&self.expand(f)) })
                .collect());
        }
        let place = self.place(item, home)?;
        let Location::File { repository, path } = &place else { return Ok(vec![place]) };
        if !path.contains('*') || item.get("project").is_some() {
            return Ok(vec![place]);
        }
        let all = self.fetch.paths(repository.as_ref()).unwrap_or_default();
        let Ok(glob) = RubyGlob::new(path) else {
            self.diagnostics.error(item.span, "include", format!("Local file `{path}` does not exist!"));
            return Err(Reported);
        };
        let found: BTreeSet<String> =
            all.into_iter().filter(|p| (p.ends_with(".yml") || p.ends_with(".yaml")) && glob.matches(p)).collect();
        if found.is_empty() {
            let error = self.diagnostics.error(item.span, "include", format!("Local file `{path}` does not exist!"));
            error.hint("no file of the commit matches");
            return Err(Reported);
        }
        Ok(found.into_iter().map(|path| Location::File { repository: repository.clone(), path }).collect())
    }

    /// Where an item's (first) file is.
    fn place(&mut self, item: &Node, home: &Home) -> Result<Location, Reported> {
        if let Some(text) = item.as_str() {
            let text = self.expand(text);
            return Ok(if text.starts_with("http://") || text.starts_with("https://") {
                Location::Remote { url: text }
            } else {
                Location::File { repository: home.repository.clone(), path: root_path(&text) }
            });
        }
        let Some(map) = item.as_map() else {
            self.diagnostics
                .error(item.span, "include", "include config should be a string, a hash, or an array of those")
                .hint(format!("found {}", item.describe()));
            return Err(Reported);
        };
        let used: Vec<&str> = PLACES.iter().copied().filter(|p| map.present(p).is_some()).collect();
        let place = match used[..] {
            [place] => place,
            [] => {
                let keys = "`local`, `project`, `remote`, `template`, `component`, `artifact`";
                let written = serde_json::to_string(&item.to_json()).unwrap_or_default();
                let message = format!(
                    "`{}` does not have a valid subkey for include. Valid subkeys are: {keys}",
                    shorten(&written, 200)
                );
                let hint = map.keys().find_map(|k| suggest::among(k, PLACES.into_iter()));
                self.diagnostics.error(item.span, "include", message).hint = hint;
                return Err(Reported);
            }
            _ => {
                let keys = used.iter().map(|k| format!("`{k}`")).collect::<Vec<_>>().join(", ");
                let message =
                    format!("Each include must use only one of: {}", PLACES.map(|p| format!("`{p}`")).join(", "));
                self.diagnostics.error(item.span, "include", message).hint(format!("this one has {keys}"));
                return Err(Reported);
            }
        };
        let Some(text) = map.get(place).and_then(Node::as_str) else {
            let node = map.get(place).unwrap_or(item);
            let message = format!("include:{place} config should be a string");
            self.diagnostics.error(node.span, "include", message).hint(format!("found {}", node.describe()));
            return Err(Reported);
        };
        let text = self.expand(text);
        Ok(match place {
            "local" => Location::File { repository: home.repository.clone(), path: root_path(&text) },
            "remote" => Location::Remote { url: text },
            "template" => Location::Template { name: text },
            "component" => Location::Component { address: text },
            _ => {
                let Some(file) = map.get("file").filter(|f| !f.is_null()) else {
                    let message = "include config must specify the file where to fetch the config from";
                    self.diagnostics.error(item.span, "include", message).hint("add `file: /path/in/that/project.yml`");
                    return Err(Reported);
                };
                let first = file.as_str().or_else(|| file.as_seq().and_then(|s| s.first()).and_then(Node::as_str));
                let reference = map.get("ref").and_then(Node::as_str).map(|r| self.expand(r));
                let repository = Some(Repository { project: text, reference });
                Location::File { repository, path: root_path(&self.expand(first.unwrap_or_default())) }
            }
        })
    }

    fn read(&mut self, place: &Location, span: Span) -> Result<(super::fetch::Fetched, String), Reported> {
        let label = place.to_string();
        let bad_end = |path: &str| !(path.ends_with(".yml") || path.ends_with(".yaml"));
        let path = match place {
            Location::File { path, .. } => Some(path.as_str()),
            Location::Template { name } => Some(name.as_str()),
            Location::Remote { .. } | Location::Component { .. } => None,
        };
        if let Some(path) = path.filter(|p| bad_end(p)) {
            let message = format!("Included file `{path}` does not have YAML extension!");
            self.diagnostics.error(span, "include", message).hint("its name must end in .yml or .yaml");
            return Err(Reported);
        }
        let missing = |e: &FetchError| match (e, place) {
            (FetchError::Unavailable(_), Location::File { repository: None, path }) => {
                format!("Local file `{path}` does not have project!")
            }
            _ => format!("{} does not exist!", said(place, &label)),
        };
        match self.fetch.fetch(place) {
            Ok(fetched) => Ok((fetched, label)),
            Err(error) => {
                let hint = match &error {
                    FetchError::Unavailable(why) => Some(why.clone()),
                    FetchError::Missing => match place {
                        Location::File { repository, path } => {
                            let all = self.fetch.paths(repository.as_ref()).unwrap_or_default();
                            suggest::among(path, all.iter().map(String::as_str))
                        }
                        _ => None,
                    },
                };
                self.diagnostics.error(span, "include", missing(&error)).hint = hint;
                Err(Reported)
            }
        }
    }
}

/// What GitLab calls a file of such a place.
fn said(place: &Location, label: &str) -> String {
    match place {
        Location::File { repository: None, path } => format!("Local file `{path}`"),
        Location::File { repository: Some(r), path } => format!("Project `{}` file `{path}`", r.project),
        Location::Remote { url } => format!("Remote file `{url}`"),
        Location::Template { name } => format!("Template file `{name}`"),
        Location::Component { .. } => format!("Component `{label}`"),
    }
}

fn root_path(path: &str) -> String {
    path.trim_start_matches('/').to_string()
}

/// The items of an `include`: one, or a list of them (nested lists come from references).
fn items(node: Option<&Node>) -> Vec<&Node> {
    match node.map(|n| &n.value) {
        None | Some(Value::Null) => Vec::new(),
        Some(Value::Seq(list)) => list.iter().flat_map(|n| items(Some(n))).collect(),
        Some(_) => node.into_iter().collect(),
    }
}
