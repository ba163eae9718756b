# What the first covariate adds to the rest. Usage: Rscript added_value.R FOLDER_OF_CSVS OUT.json
# FOLDER_OF_CSVS as inference_cases.py writes it.
suppressPackageStartupMessages({
  library(survival)
  library(cmprsk)
  library(jsonlite)
})
FIXED <- c("time", "event", "cause", "entry", "weight", "stratum", "cluster")
TIGHT <- coxph.control(eps = 1e-13, iter.max = 60, toler.chol = 1e-14)

ratio <- function(b, se) exp(b + c(0, -1, 1) * qnorm(0.975) * se)

cox <- function(y, risk, rest) {
  less <- coxph(y ~ rest, control = TIGHT)
  more <- coxph(y ~ risk + rest, control = TIGHT)
  a <- anova(less, more)
  list(chisq = a$Chisq[2], p = a[["Pr(>|Chi|)"]][2],
       adequacy = diff(less$loglik) / diff(more$loglik),
       ratio = ratio(coef(more)[[1]], sqrt(vcov(more)[1, 1])))
}

logistic <- function(event, risk, rest) {
  tight <- glm.control(epsilon = 1e-14, maxit = 100)
  less <- glm(event ~ rest, binomial, control = tight)
  more <- glm(event ~ risk + rest, binomial, control = tight)
  a <- anova(less, more, test = "LRT")
  list(chisq = a$Deviance[2], p = a[["Pr(>Chi)"]][2],
       adequacy = (less$null.deviance - less$deviance) / (more$null.deviance - more$deviance),
       ratio = ratio(coef(more)[[2]], sqrt(vcov(more)[2, 2])))
}

fine_gray <- function(d, risk, rest) {
  m <- crr(d$time, d$cause, cbind(risk, rest), gtol = 1e-10, maxiter = 50)
  list(chisq = m$coef[[1]]^2 / m$var[1, 1], ratio = ratio(m$coef[[1]], sqrt(m$var[1, 1])))
}

out <- list()
for (file in list.files(commandArgs(TRUE)[1], "\\.csv$", full.names = TRUE)) {
  d <- read.csv(file, check.names = FALSE)
  x <- as.matrix(d[setdiff(names(d), FIXED)])
  if (sum(d$event) < 5 || ncol(x) < 2) next
  storage.mode(x) <- "double"
  risk <- as.numeric(scale(x[, 1]))
  rest <- x[, -1, drop = FALSE]
  y <- if ("entry" %in% names(d)) Surv(d$entry, d$time, d$event) else Surv(d$time, d$event)
  name <- sub("\\.csv$", "", basename(file))
  out[[name]] <- list(cox = cox(y, risk, rest))
  if (any(d$event == 0)) out[[name]]$logistic <- logistic(d$event, risk, rest)
  if ("cause" %in% names(d)) out[[name]]$fine_gray <- fine_gray(d, risk, rest)
}
write_json(out, commandArgs(TRUE)[2], digits = 15, auto_unbox = TRUE)
