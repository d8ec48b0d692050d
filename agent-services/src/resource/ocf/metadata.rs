//! What an OCF agent says of itself (`meta-data`): a document of XML, as `ra-api-1.dtd` and OCF 1.1 have it.

use std::{str::FromStr, time::Duration};

use roxmltree::{Document, Node, ParsingOptions};

/// More than any agent of Debian's needs by far (SAPDatabase: 700); bounds what parsing can cost.
const NODES: u32 = 50_000;

/// What an agent says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Metadata {
    /// Its name.
    pub name: String,
    /// What it does, in a line.
    pub short: String,
    /// What it can be told.
    pub parameters: Vec<Parameter>,
    /// What it can do.
    pub actions: Vec<Action>,
}

/// A parameter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parameter {
    /// Its name, without `OCF_RESKEY_`.
    pub name: String,
    /// It must be given.
    pub required: bool,
    /// Of several that mean the same one must be given: the name of the one that this has been replaced by.
    pub replaced_by: Option<String>,
    /// What it holds.
    pub content: Content,
    /// What it is when it is not given.
    pub default: Option<String>,
    /// What it is for, in a line.
    pub short: String,
}

/// What a parameter holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content {
    /// Any text.
    Text,
    /// A whole number.
    Integer,
    /// Yes or no.
    Boolean,
    /// One of a list (OCF 1.1: `select`).
    Select(Vec<String>),
    /// A type of which neither standard knows (`time`, `second`): anything goes.
    Other(String),
}

/// Something that an agent can do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Action {
    /// `start`, `stop`, `monitor`, …
    pub name: String,
    /// How long its author thinks it may take at least.
    pub timeout: Option<Duration>,
    /// How often its author would do it (`monitor`).
    pub interval: Option<Duration>,
}

impl Metadata {
    /// Parses it.
    ///
    /// # Errors
    /// It is not what the standard demands; a sentence that says why.
    pub fn parse(text: &str) -> Result<Metadata, String> {
        let options = ParsingOptions {
            // All of them have a DOCTYPE.
            allow_dtd: true,
            nodes_limit: NODES,
            ..ParsingOptions::default()
        };
        let document = Document::parse_with_options(text.trim_start(), options)
            .map_err(|e| format!("its metadata is no XML: {e}"))?;
        let root = document.root_element();
        if !root.has_tag_name("resource-agent") {
            return Err(format!(
                "its metadata is a <{}>, not a <resource-agent>",
                root.tag_name().name()
            ));
        }
        let name = root
            .attribute("name")
            .ok_or("its metadata does not name it")?
            .to_owned();
        let mut parameters = Vec::new();
        for node in inside(root, "parameters", "parameter") {
            parameters.push(parameter(node)?);
        }
        let mut actions = Vec::new();
        for node in inside(root, "actions", "action") {
            actions.push(Action {
                name: node
                    .attribute("name")
                    .ok_or("its metadata has an action without a name")?
                    .to_owned(),
                timeout: node.attribute("timeout").and_then(duration),
                interval: node.attribute("interval").and_then(duration),
            });
        }
        Ok(Metadata {
            name,
            short: short(root),
            parameters,
            actions,
        })
    }

    /// The action of this name; of several (`monitor`) the one with the longest time.
    #[must_use]
    pub fn action(&self, name: &str) -> Option<&Action> {
        self.actions
            .iter()
            .filter(|a| a.name == name)
            .max_by_key(|a| a.timeout)
    }
}

impl Content {
    /// Is this a value that it can hold? As the shell functions of resource-agents read them.
    #[must_use]
    pub fn takes(&self, value: &str) -> bool {
        match self {
            Content::Text | Content::Other(_) => true,
            Content::Integer => i64::from_str(value).is_ok(),
            Content::Boolean => matches!(
                value.to_ascii_lowercase().as_str(),
                "yes"
                    | "true"
                    | "1"
                    | "on"
                    | "ja"
                    | "y"
                    | "no"
                    | "false"
                    | "0"
                    | "off"
                    | "n"
                    | "nein"
            ),
            Content::Select(list) => list.iter().any(|v| v == value),
        }
    }

    /// "a whole number", for sentences.
    #[must_use]
    pub fn wants(&self) -> String {
        match self {
            Content::Text => "text".into(),
            Content::Integer => "a whole number".into(),
            Content::Boolean => "true or false".into(),
            Content::Select(list) => format!("one of {}", list.join(", ")),
            Content::Other(name) => format!("a {name}"),
        }
    }
}

fn parameter(node: Node<'_, '_>) -> Result<Parameter, String> {
    let name = node
        .attribute("name")
        .filter(|n| {
            !n.is_empty()
                && n.chars()
                    .all(|c| c.is_ascii_alphanumeric() || "_-.".contains(c))
        })
        .ok_or("its metadata has a parameter without a name that could be one")?
        .to_owned();
    let content = child(node, "content");
    let kind = content
        .and_then(|c| c.attribute("type"))
        .unwrap_or("string");
    let yes = |attribute| {
        node.attribute(attribute)
            .is_some_and(|v| matches!(v, "1" | "true" | "yes"))
    };
    Ok(Parameter {
        required: yes("required"),
        replaced_by: child(node, "deprecated")
            .and_then(|d| child(d, "replaced-with"))
            .and_then(|r| r.attribute("name"))
            .or_else(|| node.attribute("obsoletes"))
            .map(str::to_owned),
        content: match kind {
            "string" => Content::Text,
            "integer" => Content::Integer,
            "boolean" => Content::Boolean,
            "select" => Content::Select(
                content
                    .into_iter()
                    .flat_map(|c| c.children())
                    .filter(|o| o.has_tag_name("option"))
                    .filter_map(|o| o.attribute("value"))
                    .map(str::to_owned)
                    .collect(),
            ),
            other => Content::Other(other.to_owned()),
        },
        default: content
            .and_then(|c| c.attribute("default"))
            .filter(|d| !d.is_empty())
            .map(str::to_owned),
        short: short(node),
        name,
    })
}

fn child<'a, 'i>(node: Node<'a, 'i>, name: &str) -> Option<Node<'a, 'i>> {
    node.children().find(|n| n.has_tag_name(name))
}

fn inside<'a, 'i: 'a>(
    root: Node<'a, 'i>,
    list: &'a str,
    item: &'a str,
) -> impl Iterator<Item = Node<'a, 'i>> {
    root.children()
        .filter(move |n| n.has_tag_name(list))
        .flat_map(|n| n.children())
        .filter(move |n| n.has_tag_name(item))
}

fn short(node: Node<'_, '_>) -> String {
    child(node, "shortdesc")
        .and_then(|n| n.text())
        .map(|t| t.split_whitespace().collect::<Vec<_>>().join(" "))
        .unwrap_or_default()
}

/// `20`, `20s`, `500ms`, `2m`, `2min`, `1h`; without a unit seconds.
fn duration(text: &str) -> Option<Duration> {
    let text = text.trim();
    let digits = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    let (number, unit) = text.split_at_checked(digits)?;
    let number: u64 = number.parse().ok()?;
    let milliseconds = match unit.trim() {
        "ms" | "msec" => 1,
        "" | "s" | "sec" => 1_000,
        "m" | "min" => 60_000,
        "h" | "hr" => 3_600_000,
        _ => return None,
    };
    Some(Duration::from_millis(number.checked_mul(milliseconds)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_actions_and_times() {
        let m = Metadata::parse(
            r#"
<?xml version="1.0"?>
<!DOCTYPE resource-agent SYSTEM "ra-api-1.dtd">
<resource-agent name="X" version="1.0"><shortdesc lang="en">An
  x</shortdesc><parameters>
<parameter name="a" required="1"><content type="integer"/></parameter>
<parameter name="b"><content type="select" default="u"><option value="u"/><option value="v"/></content></parameter>
<parameter name="c"><deprecated><replaced-with name="a"/></deprecated><content type="time"/></parameter>
</parameters><actions><action name="start" timeout="90"/><action name="monitor" timeout="2m" interval="500ms"/>
<action name="monitor" timeout="20s"/></actions></resource-agent>"#,
        )
        .unwrap();
        assert_eq!((m.name.as_str(), m.short.as_str()), ("X", "An x"));
        let [a, b, c] = m.parameters.as_slice() else {
            panic!("{m:?}")
        };
        assert!(a.required && a.content.takes("12") && !a.content.takes("x"));
        assert!(!b.required && b.content.takes("v") && !b.content.takes("w"));
        assert_eq!(b.default.as_deref(), Some("u"));
        assert_eq!(c.replaced_by.as_deref(), Some("a"));
        assert!(c.content.takes("5min"));
        assert_eq!(
            m.action("start").unwrap().timeout,
            Some(Duration::from_secs(90))
        );
        let monitor = m.action("monitor").unwrap();
        assert_eq!(monitor.timeout, Some(Duration::from_secs(120)));
        assert_eq!(monitor.interval, Some(Duration::from_millis(500)));
        assert!(m.action("stop").is_none());
    }

    #[test]
    fn lies() {
        let wrong = |text: &str| Metadata::parse(text).unwrap_err();
        assert!(wrong("").contains("no XML"));
        assert!(wrong("hello").contains("no XML"));
        assert!(wrong("<html/>").contains("<html>"));
        assert!(wrong("<resource-agent/>").contains("does not name it"));
        let nameless =
            r#"<resource-agent name="x"><parameters><parameter/></parameters></resource-agent>"#;
        assert!(wrong(nameless).contains("parameter without a name"));
        let evil = r#"<resource-agent name="x"><parameters><parameter name="A=1 B"/></parameters></resource-agent>"#;
        assert!(wrong(evil).contains("parameter without a name"));
        // A hundred million laughs: refused, not computed.
        let mut laughs = String::from("<!DOCTYPE r [<!ENTITY l0 \"ha\">");
        for n in 1..9 {
            laughs += &format!("<!ENTITY l{n} \"{}\">", format!("&l{};", n - 1).repeat(10));
        }
        laughs += "]><resource-agent name=\"x\"><shortdesc>&l8;</shortdesc></resource-agent>";
        assert!(wrong(&laughs).contains("no XML"));
        let many = format!(
            "<resource-agent name=\"x\">{}</resource-agent>",
            "<a/>".repeat(60_000)
        );
        assert!(wrong(&many).contains("no XML"));
        assert_eq!(duration("99999999999999999999h"), None);
        assert_eq!(duration("18446744073709551615h"), None);
    }
}
