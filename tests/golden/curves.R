# Golden values of curves, groups and net benefit from R. Usage: Rscript curves.R FOLDER_OF_CSVS OUT.json
suppressPackageStartupMessages({
  library(survival)
  library(cmprsk)
  library(jsonlite)
})

response <- function(d) {
  if ("entry" %in% names(d)) Surv(d$entry, d$time, d$cause == 1) else Surv(d$time, d$cause == 1)
}
multistate <- function(d) {
  state <- factor(d$cause, 0:max(d$cause, 2))
  if ("entry" %in% names(d)) Surv(d$entry, d$time, state) else Surv(d$time, state)
}

# Restricted mean event-free time by group, only where follow-up reaches tau.
restricted <- function(d) {
  out <- lapply(sort(unique(d$group)), function(g) {
    e <- d[d$group == g, ]
    fit <- survfit(response(e) ~ 1)
    if (max(e$time) < d$tau[1] && min(fit$surv) > 0) return(NULL)
    row <- summary(fit, rmean = d$tau[1])$table
    list(group = g, value = row[["rmean"]], se = row[["se(rmean)"]])
  })
  Filter(Negate(is.null), out)
}

# Mean time lost to causes 1 and 2; its error from the infinitesimal jackknife of the area.
time_lost <- function(d) {
  out <- lapply(sort(unique(d$group)), function(g) {
    e <- d[d$group == g, ]
    e$id <- seq_len(nrow(e))
    y <- multistate(e)
    fit <- survfit(y ~ 1, id = id, data = e)
    if (max(e$time) < d$tau[1]) return(NULL)
    area <- summary(fit, rmean = d$tau[1])$table[, "rmean"]
    full <- survfit(y ~ 1, id = id, data = e, influence = TRUE)
    width <- diff(c(pmin(fit$time, d$tau[1]), d$tau[1]))
    se <- apply(full$influence.pstate, 3, function(u) {
      keep <- ncol(u) - length(width) + seq_along(width)
      sqrt(sum((u[, keep, drop = FALSE] %*% width)^2))
    })
    list(group = g, value = unname(area[2:3]), se = unname(se[2:3]))
  })
  Filter(Negate(is.null), out)
}

# fit$score is what summary() shows as sctest.
trend <- function(d) {
  score <- function(formula, ties) unname(coxph(formula, ties = ties, iter.max = 0)$score)
  y <- response(d)
  g <- d$group
  s <- d$stratum
  list(exact = score(y ~ g, "exact"), breslow = score(y ~ g, "breslow"),
       stratified = score(y ~ g + strata(s), "exact"))
}

stratified <- function(d) {
  fit <- survdiff(response(d) ~ d$group + strata(d$stratum))
  list(chi2 = fit$chisq, observed = unname(rowSums(fit$obs)), expected = unname(rowSums(fit$exp)))
}

gray <- function(d) {
  one <- function(fit) list(chi2 = unname(fit$Tests[, "stat"]), p = unname(fit$Tests[, "pv"]))
  list(all = one(cuminc(d$time, d$cause, d$group)),
       stratified = one(cuminc(d$time, d$cause, d$group, d$stratum)))
}

pairwise <- function(d) {
  groups <- sort(unique(d$group))
  pairs <- combn(groups, 2)
  p <- apply(pairs, 2, function(two) {
    e <- d[d$group %in% two, ]
    fit <- survdiff(response(e) ~ e$group)
    pchisq(fit$chisq, 1, lower.tail = FALSE)
  })
  list(first = pairs[1, ], second = pairs[2, ], p = p, holm = p.adjust(p, "holm"))
}

# Net benefit with its infinitesimal-jackknife error, from the influence of survfit.
benefit <- function(d) {
  h <- d$horizon[1]
  n <- nrow(d)
  one <- function(p, cut) {
    above <- p >= cut
    odds <- cut / (1 - cut)
    influence <- rep(0, n)
    if (!any(above)) return(list(value = 0, influence = influence))
    e <- d[above, ]
    e$id <- seq_len(nrow(e))
    y <- multistate(e)
    fit <- survfit(y ~ 1, id = id, data = e, influence = TRUE)
    k <- findInterval(h, fit$time)
    extra <- dim(fit$influence.pstate)[2] - length(fit$time)
    risk <- if (k == 0) 0 else fit$pstate[k, 2]
    moved <- if (k == 0) rep(0, nrow(e)) else fit$influence.pstate[, k + extra, 2]
    gain <- risk - (1 - risk) * odds
    influence <- -mean(above) * gain / n + numeric(n)
    influence[above] <- influence[above] + gain / n + mean(above) * (1 + odds) * moved
    list(value = mean(above) * gain, influence = influence)
  }
  cuts <- c(0.1, 0.2, 0.3, 0.4, 0.5, 0.6)
  other <- pmin(pmax(round(0.5 * d$probability + 0.5 * mean(d$probability), 4), 0), 1)
  error <- function(influence) sqrt(sum(influence^2))
  model <- lapply(cuts, function(cut) one(d$probability, cut))
  all <- lapply(cuts, function(cut) one(rep(1, n), cut))
  over <- lapply(cuts, function(cut) one(other, cut))
  list(threshold = cuts, over = other,
       value = sapply(model, `[[`, "value"), se = sapply(model, function(m) error(m$influence)),
       all = sapply(all, `[[`, "value"),
       gain = mapply(function(m, o) m$value - o$value, model, over),
       gain_se = mapply(function(m, o) error(m$influence - o$influence), model, over))
}

landmark <- function(d) {
  at <- d$horizon[1] / 2
  e <- d[d$time > at, ]
  fit <- concordance(Surv(time - at, cause == 1) ~ risk, data = e, reverse = TRUE,
                     ymax = d$tau[1] - at)
  list(at = at, n = nrow(e), events = sum(e$cause == 1), c = unname(fit$concordance),
       se = sqrt(fit$var))
}

# Numbers at risk by group at some of the group's own times: in between, with entry times, R
# already counts who will have entered by the next of them.
at_risk <- function(d) {
  lapply(sort(unique(d$group)), function(g) {
    fit <- survfit(response(d[d$group == g, ]) ~ 1)
    k <- unique(round(seq(1, length(fit$time), length.out = 12)))
    list(group = g, time = fit$time[k], n = fit$n.risk[k])
  })
}

# Reverse Kaplan-Meier: whoever had an event is censored there.
follow_up <- function(d) {
  if (all(d$cause > 0)) return(NULL)
  y <- if ("entry" %in% names(d)) Surv(d$entry, d$time, d$cause == 0) else Surv(d$time, d$cause == 0)
  q <- quantile(survfit(y ~ 1, conf.type = "log-log"), c(0.25, 0.5, 0.75))
  list(quantile = unname(q$quantile), lower = unname(q$lower)[2], upper = unname(q$upper)[2])
}

# Aalen-Johansen of cause 1 by group at the horizon with cmprsk's variance (delta method).
incidence <- function(d) {
  h <- d$horizon[1]
  fit <- cuminc(d$time, d$cause, d$group)
  at <- timepoints(fit, h)
  keep <- grepl(" 1$", rownames(at$est))
  list(value = unname(at$est[keep, 1]), se = unname(sqrt(at$var[keep, 1])))
}

one_case <- function(name, d) {
  competing <- startsWith(name, "competing")
  whole <- !("entry" %in% names(d))
  out <- list(at_risk = at_risk(d), follow_up = follow_up(d))
  if (competing) {
    if (whole) out$incidence <- incidence(d)
    out$time_lost <- time_lost(d)
    if (whole) out$gray <- gray(d)
  } else {
    out$restricted <- restricted(d)
    out$trend <- trend(d)
    if (whole) {
      out$stratified <- stratified(d)
      out$landmark <- landmark(d)
      if (length(unique(d$group)) > 2) out$pairwise <- pairwise(d)
    }
  }
  if (whole) out$benefit <- benefit(d)
  out
}

# Monoclonal gammopathy: 1384 patients, ties everywhere; its columns travel with the values.
gammopathy <- function() {
  d <- with(mgus2, data.frame(
    time = ifelse(pstat == 0, futime, ptime), cause = ifelse(pstat == 0, 2 * death, 1),
    group = as.integer(cut(age, c(0, 62, 75, 200))) - 1L, stratum = as.integer(sex == "M")
  ))
  d$tau <- 240
  c(list(table = d[, c("time", "cause", "group", "stratum")], tau = 240),
    list(gray = gray(d), time_lost = time_lost(d)))
}

anchors <- function() {
  fit <- survfit(Surv(time, status) ~ sex, lung)
  row <- summary(fit, rmean = 730)$table
  list(rmean = unname(row[, "rmean"]), se = unname(row[, "se(rmean)"]),
       chi2 = survdiff(Surv(time, status) ~ sex, lung)$chisq)
}

arguments <- commandArgs(trailingOnly = TRUE)
files <- sort(list.files(arguments[1], pattern = "[.]csv$", full.names = TRUE))
names(files) <- sub("[.]csv$", "", basename(files))
values <- lapply(names(files), function(name) one_case(name, read.csv(files[[name]])))
names(values) <- names(files)
values$mgus2 <- gammopathy()
values$lung_by_sex <- anchors()
values$versions <- c(
  list(R = paste(R.version$major, R.version$minor, sep = ".")),
  sapply(c("survival", "cmprsk"),
         function(package) as.character(packageVersion(package)), simplify = FALSE)
)
# One line a case.
as_line <- function(name) {
  paste0(toJSON(name, auto_unbox = TRUE), ": ",
         toJSON(values[[name]], auto_unbox = TRUE, digits = 15, na = "null",
                dataframe = "columns"))
}
lines <- vapply(names(values), as_line, "")
writeLines(c("{", paste(lines, collapse = ",\n"), "}"), arguments[2])
