# Golden values with competing risks from R. Usage: Rscript competing.R FOLDER_OF_CSVS OUT.json
suppressPackageStartupMessages({
  library(survival)
  library(cmprsk)
  library(riskRegression)
  library(prodlim)
  library(jsonlite)
})

# At most 40 of some times, spread evenly, the last included.
spread <- function(n) unique(round(seq(1, n, length.out = 40)))

# Aalen-Johansen of causes 1 and 2 by survival; its error is the infinitesimal jackknife.
incidence <- function(d) {
  d$id <- seq_len(nrow(d))
  state <- factor(d$cause, 0:max(d$cause))
  fit <- if ("entry" %in% names(d)) {
    survfit(Surv(d$entry, d$time, state) ~ 1, id = d$id)
  } else {
    survfit(Surv(d$time, state) ~ 1, id = d$id)
  }
  k <- spread(length(fit$time))
  list(time = fit$time[k], one = fit$pstate[k, 2], one_se = fit$std.err[k, 2],
       two = fit$pstate[k, 3], two_se = fit$std.err[k, 3])
}

# The same share by another package.
by_cmprsk <- function(d) {
  at <- timepoints(cuminc(d$time, d$cause), d$horizon[1])
  list(value = unname(at$est[1, 1]))
}

# G(t-) by time, with patients who have an event at t gone before those censored at t.
uncensored <- function(d) {
  gap <- min(diff(sort(unique(d$time)))) / 2
  fit <- survfit(Surv(ifelse(d$cause == 0, d$time, d$time - gap), d$cause == 0) ~ 1)
  steps <- stepfun(fit$time, c(1, fit$surv))
  list(before = function(t) steps(t - gap / 2), at = steps)
}

long_form <- function(d, until = NULL) {
  if (!is.null(until)) {
    d$cause <- ifelse(d$time > until, 0, d$cause)
    d$time <- pmin(d$time, until)
  }
  d$state <- factor(d$cause, 0:max(d$cause))
  finegray(Surv(time, state) ~ ., data = d[, c("time", "state", "risk", "probability")],
           etype = "1")
}

# Harrell's C and the proportional hazards slope on Fine and Gray's weighted data.
fine_gray <- function(d) {
  f <- long_form(d)
  y <- Surv(f$fgstart, f$fgstop, f$fgstatus)
  c_all <- concordance(y ~ f$risk, weights = f$fgwt, reverse = TRUE)$concordance
  c_tau <- concordance(y ~ f$risk, weights = f$fgwt, reverse = TRUE, ymax = d$tau[1])$concordance
  g <- long_form(d, d$horizon[1])
  g$lp <- log(-log(1 - g$probability))
  tight <- coxph.control(eps = 1e-11, iter.max = 60)
  fit <- coxph(Surv(fgstart, fgstop, fgstatus) ~ lp, data = g, weights = fgwt, control = tight)
  list(c = unname(c_all), c_tau = unname(c_tau), slope = unname(coef(fit)))
}

# Wolbers et al. 2014, pair by pair: i had cause 1 before tau, and j either outlived i or had
# another cause by then. Weights 1/(G(Ti-) G(Ti-)) and 1/(G(Ti-) G(Tj-)).
wolbers <- function(d) {
  g <- uncensored(d)$before(d$time)
  credit <- pairs <- 0
  for (i in which(d$cause == 1 & d$time < d$tau[1])) {
    outlived <- d$time > d$time[i] | (d$time == d$time[i] & d$cause == 0)
    other <- d$cause > 1 & d$time <= d$time[i]
    weight <- ifelse(other, 1 / (g[i] * g), ifelse(outlived, 1 / g[i]^2, 0))
    weight[i] <- 0
    pairs <- pairs + sum(weight)
    credit <- credit + sum(weight * ((d$risk < d$risk[i]) + 0.5 * (d$risk == d$risk[i])))
  }
  credit / pairs
}

# AUC, Brier score and its scaled form of riskRegression; observed/expected of survfit.
at_horizon <- function(d) {
  h <- d$horizon[1]
  score <- function(prediction, metric) {
    s <- Score(list(model = prediction), formula = Hist(time, cause) ~ 1, data = d, times = h,
               metrics = metric, summary = "ipa", null.model = TRUE, cens.model = "km",
               cens.method = "ipcw", se.fit = FALSE, cause = 1)
    values <- as.data.frame(if (metric == "auc") s$AUC$score else s$Brier$score)
    values[values$model == "model", ]
  }
  brier <- score(d$probability, "brier")
  # pseudo() looks for the data by name, outside this function.
  assign("patients", data.frame(time = d$time, state = factor(d$cause, 0:max(d$cause))),
         envir = globalenv())
  fit <- survfit(Surv(time, state) ~ 1, data = patients)
  share <- summary(fit, times = h)$pstate[1, 2]
  list(auc = score(rank(d$risk) / (nrow(d) + 1), "auc")$AUC, brier = brier$Brier, brier_scaled = brier$IPA,
       o_e = share / mean(d$probability),
       pseudo = unname(pseudo(fit, times = h, type = "pstate")[, 2]))
}

one_case <- function(file) {
  d <- read.csv(file)
  out <- list(incidence = incidence(d))
  if (!("entry" %in% names(d))) {
    out$cuminc <- by_cmprsk(d)
    out$fine_gray <- fine_gray(d)
    out$wolbers <- wolbers(d)
    out$horizon <- at_horizon(d)
  }
  out
}

arguments <- commandArgs(trailingOnly = TRUE)
files <- sort(list.files(arguments[1], pattern = "[.]csv$", full.names = TRUE))
values <- lapply(files, one_case)
names(values) <- sub("[.]csv$", "", basename(files))
values$versions <- c(
  list(R = paste(R.version$major, R.version$minor, sep = ".")),
  sapply(c("survival", "cmprsk", "riskRegression"),
         function(package) as.character(packageVersion(package)), simplify = FALSE)
)
# One line a case.
as_line <- function(name) {
  paste0(toJSON(name, auto_unbox = TRUE), ": ",
         toJSON(values[[name]], auto_unbox = TRUE, digits = 15, na = "null"))
}
lines <- vapply(names(values), as_line, "")
writeLines(c("{", paste(lines, collapse = ",\n"), "}"), arguments[2])
