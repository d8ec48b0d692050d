//! Doing what was asked.

use std::time::Duration;

use agent_virt_proto::{
    definition::Definition,
    message::{Answer, Ask, Refusal, Why},
    state::{DomainState, Life},
};
use virt::{
    connect::Connect,
    domain::Domain,
    error::{Error, ErrorDomain, ErrorNumber},
    sys,
};

use crate::{
    host,
    link::{Link, Say},
    migrate,
};

/// Answers a request; `within` is how long the one who asks will wait.
pub fn answer(
    link: &Link,
    id: u64,
    ask: Ask,
    within: Duration,
    say: &Say,
) -> Result<Answer, Refusal> {
    let connect = link.get(within)?;
    let done = match ask {
        Ask::Status { name } => state_of(&connect, &name),
        Ask::Start { xml } => start(&connect, &xml),
        Ask::Shutdown { name } => of(&connect, &name).and_then(|domain| {
            domain.shutdown().map_err(|e| refusal(&e))?;
            state(&domain)
        }),
        Ask::Destroy { name } => of(&connect, &name).and_then(|domain| {
            domain.destroy().map_err(|e| refusal(&e))?;
            state_of(&connect, &name)
        }),
        Ask::Abort { name } => of(&connect, &name).and_then(|domain| {
            migrate::abort(&domain).map_err(|e| refusal(&e))?;
            state(&domain)
        }),
        Ask::Describe { name } => of(&connect, &name).and_then(|domain| {
            let xml = domain
                .get_xml_desc(sys::VIR_DOMAIN_XML_MIGRATABLE)
                .map_err(|e| refusal(&e))?;
            Ok(Answer::Xml(xml))
        }),
        Ask::Host { xml } => match Definition::read(&xml) {
            Ok(wanted) => host::ask(&connect, &wanted)
                .map(Answer::Host)
                .map_err(|e| refusal(&e)),
            Err(why) => Err(misconfigured(why)),
        },
        Ask::Migrate(order) => of(&connect, &order.name)
            .and_then(|domain| migrate::run(&connect, &domain, id, &order, within, say)),
    };
    if let Err(Refusal {
        why: Why::Unreachable,
        ..
    }) = &done
    {
        link.suspect();
    }
    done
}

/// What an error of libvirt means.
pub fn refusal(error: &Error) -> Refusal {
    let why = match error.code() {
        ErrorNumber::NoDomain => Why::NoDomain,
        ErrorNumber::Rpc | ErrorNumber::InvalidConn | ErrorNumber::NoConnect => Why::Unreachable,
        ErrorNumber::XmlError | ErrorNumber::XmlDetail | ErrorNumber::ConfigUnsupported => {
            Why::Misconfigured
        }
        // "client socket is closed", "Cannot write data: Broken pipe", and the like.
        _ if matches!(error.domain(), ErrorDomain::Rpc | ErrorDomain::Remote) => Why::Unreachable,
        _ => Why::Failed,
    };
    Refusal {
        why,
        text: error.message().to_owned(),
    }
}

fn misconfigured(text: String) -> Refusal {
    Refusal {
        why: Why::Misconfigured,
        text,
    }
}

/// The domain of a name; `None`: libvirt does not know it.
pub fn find(connect: &Connect, name: &str) -> Result<Option<Domain>, Refusal> {
    if name.contains('\0') {
        return Err(misconfigured("a name has no zero bytes".into()));
    }
    match Domain::lookup_by_name(connect, name) {
        Ok(domain) => Ok(Some(domain)),
        Err(error) => match refusal(&error) {
            Refusal {
                why: Why::NoDomain, ..
            } => Ok(None),
            other => Err(other),
        },
    }
}

fn of(connect: &Connect, name: &str) -> Result<Domain, Refusal> {
    find(connect, name)?.ok_or_else(|| Refusal {
        why: Why::NoDomain,
        text: format!("libvirt knows no domain {name}"),
    })
}

/// How a domain is; one that is not known is absent.
pub fn look(connect: &Connect, name: &str) -> Result<DomainState, Refusal> {
    let Some(domain) = find(connect, name)? else {
        return Ok(DomainState::absent());
    };
    let gone = |refusal: Refusal| match refusal.why {
        // It went between the two questions.
        Why::NoDomain => Ok(DomainState::absent()),
        Why::Unreachable | Why::Misconfigured | Why::Failed | Why::Busy => Err(refusal),
    };
    read(&domain).or_else(|e| gone(refusal(&e)))
}

fn read(domain: &Domain) -> Result<DomainState, Error> {
    let (state, reason) = domain.get_state()?;
    Ok(DomainState {
        life: Life::from_libvirt(i32::try_from(state).unwrap_or(-1), reason),
        uuid: domain.get_uuid_string().ok(),
        persistent: domain.is_persistent().unwrap_or(false),
        autostart: domain.get_autostart().unwrap_or(false),
    })
}

fn state_of(connect: &Connect, name: &str) -> Result<Answer, Refusal> {
    look(connect, name).map(Answer::State)
}

fn state(domain: &Domain) -> Result<Answer, Refusal> {
    read(domain).map(Answer::State).map_err(|e| refusal(&e))
}

/// Defined, not started by the daemon, running. What runs already is not touched, but for the autostart.
fn start(connect: &Connect, xml: &str) -> Result<Answer, Refusal> {
    let wanted = Definition::read(xml).map_err(misconfigured)?;
    let name = &wanted.name;
    if let Some(domain) = find(connect, name)? {
        let now = read(&domain).map_err(|e| refusal(&e))?;
        if let (Some(own), Some(there)) = (&wanted.uuid, &now.uuid)
            && own != there
        {
            return Err(misconfigured(format!(
                "libvirt knows another domain by the name {name}, with UUID {there}, not {own}: rename or undefine it"
            )));
        }
        if now.life.is_active() {
            keep_off(&domain, &now)?;
            return state(&domain);
        }
    }
    let defined = Domain::define_xml(connect, xml).map_err(|e| {
        let mut refusal = refusal(&e);
        // The same XML will be refused again; what else can go wrong here is libvirt's own and may pass.
        if matches!(
            e.code(),
            ErrorNumber::InvalidArg | ErrorNumber::XmlInvalidSchema | ErrorNumber::DomExist
        ) || refusal.text.contains("already exists with uuid")
            || refusal.text.contains("is already defined with uuid")
        {
            refusal.why = Why::Misconfigured;
        }
        refusal
    })?;
    let now = read(&defined).map_err(|e| refusal(&e))?;
    keep_off(&defined, &now)?;
    defined.create().map_err(|e| refusal(&e))?;
    state(&defined)
}

/// Who owns the group decides where it runs, not the daemon when the machine boots.
fn keep_off(domain: &Domain, now: &DomainState) -> Result<(), Refusal> {
    if now.autostart && now.persistent {
        domain.set_autostart(false).map_err(|e| refusal(&e))?;
    }
    Ok(())
}
